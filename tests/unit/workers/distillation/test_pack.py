"""Several attempts in one run of the fake trainer's real processes: each ends by itself, and alone."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import update

from core.truth import jobs
from core.truth.clock import from_now
from core.truth.tables import jobs as jobs_table
from tests.unit.workers.distillation.bench import Bench
from workers.distillation.attempt import Outcome


def states(bench: Bench, job_ids: list[str]) -> list[str]:
    return [bench.job(job_id).state for job_id in job_ids]


def test_one_doorbell_takes_along_what_waits_and_the_others_find_nothing(bench: Bench, pids: Path) -> None:
    made = [bench.admit("train") for _ in range(3)]
    assert bench.perform(made[1]) is Outcome.SUCCEEDED
    assert states(bench, made) == ["succeeded"] * 3
    assert {bench.memory(job_id).status for job_id in made} == {"ready"}
    assert [bench.perform(job_id) for job_id in made] == [Outcome.UNCLAIMED] * 3
    assert [bench.job(job_id).epoch for job_id in made] == [1, 1, 1]
    assert len(pids.read_text().split()) == 3, "one group, one run"
    phases = [event.data["phase"] for event in bench.events(made[2]) if event.type == "phase"]
    assert phases == ["self_study", "training", "calibrating", "publishing"]


def test_a_memory_is_published_the_moment_it_is_done(bench: Bench, tmp_path: Path) -> None:
    slow, quick = bench.admit("wait go"), bench.admit("train")
    seen: list[str] = []

    def look() -> None:
        if bench.memory(quick).status == "ready":
            seen.append(bench.job(slow).state)
            (tmp_path / "go").touch()

    bench.each_poll(look)
    assert bench.perform(slow) is Outcome.SUCCEEDED
    assert seen[0] == "running"


def test_one_memorys_fault_is_its_own(bench: Bench) -> None:
    made = [bench.admit(text) for text in ("train", "refuse", "nan", "break", "train", "train")]
    bench.worker.store.delete(bench.memory(made[4]).context_key)
    assert bench.perform(made[0]) is Outcome.SUCCEEDED
    assert states(bench, made) == ["succeeded", "failed", "failed", "queued", "failed", "succeeded"]
    reasons = [bench.job(job_id).reason for job_id in made]
    assert reasons == ["published", "training_failed", "adapter_invalid", None, "context_missing", "published"]
    assert not bench.worker.group.alive, "after an unforeseen error the next pack gets a new group"


def test_a_cancel_midway_ends_one_memory_at_once_and_the_run_goes_on(bench: Bench, tmp_path: Path) -> None:
    cancelled, other = bench.admit("hang"), bench.admit("wait go")

    def cancel() -> None:
        if bench.job(cancelled).state == "cancelled":
            (tmp_path / "go").touch()
        elif bench.job(cancelled).phase is not None:
            with bench.worker.database.begin() as connection:
                jobs.request_cancel(connection, bench.tenant_id, cancelled)

    bench.each_poll(cancel)
    assert bench.perform(cancelled) is Outcome.CANCELLED
    assert states(bench, [cancelled, other]) == ["cancelled", "succeeded"]
    assert bench.worker.group.alive


def test_a_lost_lease_leaves_one_memory_out_and_its_outcome_is_discarded(bench: Bench, tmp_path: Path) -> None:
    lost, other = bench.admit("deaf"), bench.admit("wait go")

    def lose() -> None:
        if list((tmp_path / "scratch").glob(f"*/inbox/*/cancel.{bench.job(lost).memory_id}")):
            (tmp_path / "go").touch()
        elif bench.job(lost).phase is not None:
            expired = update(jobs_table).where(jobs_table.c.id == lost).values(lease_until=from_now(-1.0))
            with bench.worker.database.begin() as connection:
                connection.execute(expired)

    bench.each_poll(lose)
    assert bench.perform(lost) is Outcome.LEASE_LOST
    assert states(bench, [lost, other]) == ["running", "succeeded"], "the reaper's to take back"
    assert bench.memory(lost).version is None


def test_a_trainer_that_dies_takes_only_what_is_unfinished_and_that_is_retried_alone(
    bench: Bench, tmp_path: Path
) -> None:
    made = [bench.admit(text) for text in ("train", "train", "wait go die", "hang")]

    def let_it_die() -> None:
        if states(bench, made[:2]) == ["succeeded", "succeeded"]:
            (tmp_path / "go").touch()

    bench.each_poll(let_it_die)
    assert bench.perform(made[3]) is Outcome.GIVEN_UP
    assert states(bench, made) == ["succeeded", "succeeded", "queued", "queued"]
    assert [bench.job(job_id).attempts for job_id in made] == [1, 1, 1, 1]
    assert bench.perform(made[2]) is Outcome.GIVEN_UP
    assert bench.job(made[2]).reason == "poison"
    assert (bench.job(made[3]).state, bench.job(made[3]).attempts) == ("queued", 1), "it was not taken along again"


def test_a_planned_shutdown_releases_the_whole_pack(bench: Bench) -> None:
    made = [bench.admit("hang"), bench.admit("hang"), bench.admit("train")]

    def stop() -> None:
        bench.stop = bench.job(made[2]).state == "succeeded"

    bench.each_poll(stop)
    assert bench.perform(made[0]) is Outcome.RELEASED
    assert states(bench, made) == ["queued", "queued", "succeeded"]
    assert [bench.job(job_id).attempts for job_id in made] == [0, 0, 1]
    assert not bench.worker.group.alive


def test_the_size_of_a_pack_is_counted(bench: Bench) -> None:
    made = [bench.admit("train") for _ in range(3)]
    bench.perform(made[0])
    (family,) = bench.worker.metrics.pack_jobs.collect()
    assert {s.name: s.value for s in family.samples if not s.labels}["latentbank_pack_jobs_sum"] == 3.0
