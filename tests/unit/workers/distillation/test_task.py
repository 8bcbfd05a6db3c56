"""One attempt from claim to commit: real truth on SQLite, a store in memory, the fake trainer's real processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, ProgrammingError

from core.encryption.data_keys import DataKeys
from core.encryption.master_keys import MasterKeys
from core.encryption.sealed_store import SealedStore
from core.ids import new_id
from core.storage.publication import read_manifest
from core.truth import jobs, memories, tenant_keys
from core.truth.clock import from_now
from core.truth.records import Job
from core.truth.tables import jobs as jobs_table
from tests.fixtures.flaky_store import FlakyStore
from tests.unit.workers.distillation.bench import Bench
from workers.distillation import together
from workers.distillation.attempt import Outcome


def test_a_job_runs_to_its_end_and_its_memory_is_ready(bench: Bench) -> None:
    job_id = bench.admit("train")
    assert bench.perform(job_id) is Outcome.SUCCEEDED
    job, memory = bench.job(job_id), bench.memory(job_id)
    assert (job.state, job.reason, job.progress, job.attempts) == ("succeeded", "published", 1.0, 1)
    assert (memory.status, memory.version) == ("ready", 1)
    assert memory.manifest_key is not None
    manifest = read_manifest(bench.worker.store, memory.manifest_key)
    assert (manifest.adapter_digest, manifest.job_id, manifest.epoch) == (memory.adapter_digest, job_id, 1)
    assert manifest.gate == {"threshold": 0.5}
    phases = [event.data["phase"] for event in bench.events(job_id) if event.type == "phase"]
    assert phases == ["self_study", "training", "calibrating", "publishing"]


def test_a_doubled_doorbell_runs_once(bench: Bench) -> None:
    job_id = bench.admit("train")
    assert bench.perform(job_id) is Outcome.SUCCEEDED
    assert bench.perform(job_id) is Outcome.UNCLAIMED
    assert bench.perform(new_id("job")) is Outcome.UNCLAIMED
    assert bench.job(job_id).epoch == 1


@pytest.mark.parametrize(
    ("text", "state", "reason", "code", "words"),
    [
        ("refuse", "failed", "training_failed", "training_failed", "This text can't be learnt."),
        ("nan", "failed", "adapter_invalid", "adapter_invalid", "not finite"),
    ],
)
def test_a_fault_of_the_memory_fails_its_job_with_a_clear_message(
    bench: Bench, text: str, state: str, reason: str, code: str, words: str
) -> None:
    job_id = bench.admit(text)
    assert bench.perform(job_id) is Outcome.FAILED
    job = bench.job(job_id)
    assert (job.state, job.reason, job.error_code) == (state, reason, code)
    assert words in (job.error_message or "")
    assert bench.memory(job_id).status == "failed"


def test_a_context_that_is_gone_fails_the_job(bench: Bench) -> None:
    job_id = bench.admit("train")
    bench.worker.store.delete(bench.memory(job_id).context_key)
    assert bench.perform(job_id) is Outcome.FAILED
    assert bench.job(job_id).reason == "context_missing"


def test_a_context_whose_key_is_destroyed_fails_the_job_as_one_that_is_gone(bench: Bench) -> None:
    job_id = bench.admit("train")
    place, masters = bench.memory(job_id).context_key, MasterKeys([os.urandom(32)])
    store = SealedStore(bench.worker.store, DataKeys(bench.worker.database, masters))
    store.put(place, store.get(place))
    with bench.worker.database.begin() as connection:
        tenant_keys.destroy(connection, bench.tenant_id)
    again = SealedStore(bench.worker.store, DataKeys(bench.worker.database, masters))
    bench.worker = replace(bench.worker, store=again)
    assert bench.perform(job_id) is Outcome.FAILED
    job = bench.job(job_id)
    assert (job.reason, job.error_code, job.attempts) == ("context_missing", "key_missing", 1)


def test_a_memory_admitted_for_another_base_is_refused(bench: Bench) -> None:
    job_id = bench.admit("train")
    bench.worker = replace(bench.worker, base=replace(bench.worker.base, digest="sha256:" + "0" * 64))
    assert bench.perform(job_id) is Outcome.FAILED
    assert (bench.job(job_id).state, bench.job(job_id).reason) == ("rejected", "wrong_base")


@pytest.mark.parametrize("how", ["die", "break"])
def test_a_lost_or_broken_group_costs_an_attempt_until_the_job_is_poison(bench: Bench, how: str) -> None:
    job_id = bench.admit(how)
    assert bench.perform(job_id) is Outcome.GIVEN_UP
    assert (bench.job(job_id).state, bench.job(job_id).attempts) == ("queued", 1)
    assert not bench.worker.group.alive
    assert bench.perform(job_id) is Outcome.GIVEN_UP
    job = bench.job(job_id)
    assert (job.state, job.reason, job.attempts) == ("failed", "poison", 2)
    assert "last words" not in (job.error_message or "")


@pytest.mark.parametrize(("away", "outcome", "attempts"), [(True, Outcome.RELEASED, 0), (False, Outcome.GIVEN_UP, 1)])
def test_a_store_that_is_away_costs_no_attempt_and_an_object_that_it_cannot_give_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, away: bool, outcome: Outcome, attempts: int
) -> None:
    job_id = bench.admit("train")
    store = FlakyStore(bench.worker.store, get=["unavailable"] * 5)
    if away:
        monkeypatch.setattr(store, "check", lambda: store.get("anything"))
    bench.worker = replace(bench.worker, store=store)
    assert bench.perform(job_id) is outcome
    assert (bench.job(job_id).state, bench.job(job_id).attempts) == ("queued", attempts)


def test_a_database_that_is_away_when_keys_are_asked_for_costs_no_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed objects need it: at the context, at the version that is built on, and at the upload."""
    first = bench.admit("train")
    bench.perform(first)
    seen: set[tuple[str, str]] = set()

    def once_away(name: str) -> Callable[..., Any]:
        real = getattr(bench.worker.store, name)

        def call(key: str, *arguments: Any, **options: Any) -> Any:
            if (name, key) not in seen:
                seen.add((name, key))
                raise OperationalError("SELECT", {}, Exception("server closed the connection"))
            return real(key, *arguments, **options)

        return call

    second = bench.revise(first, "train")
    monkeypatch.setattr("workers.distillation.attempt.RETRY_SECONDS", 0.0)
    for name in ("get", "put"):
        monkeypatch.setattr(bench.worker.store, name, once_away(name))
    assert bench.perform(second) is Outcome.SUCCEEDED
    assert (bench.job(second).attempts, bench.memory(second).version) == (1, 2)
    assert not [event for event in bench.events(second) if "scratch" in event.message]


@pytest.mark.parametrize("lasting", [DataError, ProgrammingError])
def test_what_the_database_would_say_again_and_again_costs_an_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lasting: type[DBAPIError]
) -> None:
    def refuse(key: str) -> bytes:
        raise lasting("SELECT", {}, Exception("no such column"))

    job_id = bench.admit("train")
    monkeypatch.setattr(bench.worker.store, "get", refuse)
    assert bench.perform(job_id) is Outcome.GIVEN_UP
    assert (bench.job(job_id).state, bench.job(job_id).attempts) == ("queued", 1)


def test_what_the_database_refuses_of_a_pack_is_published_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> list[bool]:
        raise DataError("UPDATE", {}, Exception("one of them can't be"))

    monkeypatch.setattr(together, "_commit", refuse)
    made = [bench.admit("train") for _ in range(2)]
    assert bench.perform(made[0]) is Outcome.SUCCEEDED
    assert [bench.memory(job_id).status for job_id in made] == ["ready", "ready"]


def test_a_planned_shutdown_gives_the_job_back_without_counting(bench: Bench, pids: Path) -> None:
    job_id = bench.admit("hang")
    stops = iter([False])
    bench.worker = replace(bench.worker, stopping=lambda: next(stops, pids.exists()))
    assert bench.perform(job_id) is Outcome.RELEASED
    assert (bench.job(job_id).state, bench.job(job_id).attempts) == ("queued", 0)
    assert not bench.worker.group.alive


def test_a_worker_that_stops_claims_nothing(bench: Bench) -> None:
    job_id = bench.admit("train")
    bench.stop = True
    assert bench.perform(job_id) is Outcome.UNCLAIMED
    assert bench.job(job_id).epoch == 0


def test_what_an_attempt_uploaded_but_did_not_commit_is_adopted(
    bench: Bench, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = bench.admit("train")

    def crash(*_: object) -> bool:
        raise RuntimeError("crashed before the commit")

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "publish", crash)
        patched.setattr(jobs, "publish_all", crash)
        assert bench.perform(job_id) is Outcome.GIVEN_UP
    bench.worker.group.kill()
    pids.unlink()
    assert bench.perform(job_id) is Outcome.ADOPTED
    assert not pids.exists(), "nothing was trained again"
    memory = bench.memory(job_id)
    assert memory.status == "ready"
    assert memory.manifest_key is not None
    assert read_manifest(bench.worker.store, memory.manifest_key).epoch == 1
    assert bench.job(job_id).epoch == 2


def test_a_lost_lease_publishes_nothing(bench: Bench) -> None:
    def lose(connection: Connection, job: Job) -> None:
        connection.execute(update(jobs_table).where(jobs_table.c.id == job.id).values(lease_until=from_now(-1.0)))

    job_id = bench.admit("train")
    bench.before_commit(lose)
    assert bench.perform(job_id) is Outcome.LEASE_LOST
    assert bench.job(job_id).state == "running", "the reaper's to take back"
    assert bench.memory(job_id).version is None
    assert not bench.worker.group.alive


def test_a_cancel_before_the_commit_wins(bench: Bench) -> None:
    job_id = bench.admit("train")
    bench.before_commit(lambda connection, job: jobs.request_cancel(connection, job.tenant_id, job.id))
    assert bench.perform(job_id) is Outcome.CANCELLED
    assert (bench.job(job_id).state, bench.job(job_id).reason) == ("cancelled", "cancel_requested")
    assert bench.memory(job_id).version is None


def test_a_memory_deleted_before_the_commit_stays_deleted(bench: Bench) -> None:
    job_id = bench.admit("train")
    bench.before_commit(lambda connection, job: memories.delete_memory(connection, job.tenant_id, job.memory_id))
    assert bench.perform(job_id) is Outcome.CANCELLED
    assert bench.job(job_id).reason == "memory_deleted"
    assert (bench.memory(job_id).status, bench.memory(job_id).version) == ("deleted", None)


def test_a_cancel_while_the_group_works_ends_the_run_and_keeps_the_group_warm(bench: Bench) -> None:
    job_id = bench.admit("hang")

    def cancelled() -> bool:
        with bench.worker.database.begin() as connection:
            if jobs.get_job(connection, bench.tenant_id, job_id).phase is not None:
                jobs.request_cancel(connection, bench.tenant_id, job_id)
        return False

    bench.worker = replace(bench.worker, stopping=cancelled)
    assert bench.perform(job_id) is Outcome.CANCELLED
    assert bench.job(job_id).state == "cancelled"
    assert bench.worker.group.alive


def test_a_commit_whose_reply_is_lost_still_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = bench.admit("train")
    begin, lost = bench.worker.database.begin, []

    @contextmanager
    def losing() -> Iterator[Connection]:
        with begin() as connection:
            yield connection
        if not lost and bench.job(job_id).state == "succeeded":
            lost.append(True)
            raise OperationalError("COMMIT", {}, RuntimeError("connection reset"))

    monkeypatch.setattr(bench.worker.database, "begin", losing)
    assert bench.perform(job_id) is Outcome.SUCCEEDED
    assert lost
    assert bench.memory(job_id).status == "ready"
