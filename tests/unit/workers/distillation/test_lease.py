"""The heartbeat, with injected time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Event

from core.truth.records import Claim, Job, Memory, Renewal
from workers.distillation.lease import Heartbeat, Lease

HELD = Renewal(held=True, cancel_requested=False)
DENIED = Renewal(held=False, cancel_requested=False)


def make_claim(job_id: str = "job_a") -> Claim:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job(
        id=job_id, tenant_id="t", memory_id="m", state="running", phase=None, reason=None, error_code=None,
        error_message=None, progress=0.0, epoch=1, attempts=1, cancel_requested=False, priority=0, worker_id="w",
        lease_until=None, cost_estimate_seconds=1.0, created_at=when, dispatched_at=None, rung_at=None,
        started_at=None, finished_at=None,
    )  # fmt: skip
    memory = Memory(
        id="m", tenant_id="t", collection="c", title="A", metadata={}, kind="text", status="pending", context_key="k",
        context_sha256="0", context_bytes=1, context_tokens=1, base_digest="b", version=None, adapter_digest=None,
        manifest_key=None, adapter_bytes=None, created_at=when, updated_at=when, deleted_at=None, purged_at=None,
    )  # fmt: skip
    return Claim(job, memory, 1, "token", when)


class Bench:
    """Leases of 30 s under a heartbeat of 10 s, and a truth that answers by the job's id."""

    def __init__(self, *job_ids: str) -> None:
        self.now = 100.0
        self.answers: dict[str, Renewal] = {}
        self.away = False
        self.asked: list[list[str]] = []
        self.all_lost = 0
        self.heartbeat = Heartbeat(self.renew, heartbeat_seconds=10.0, on_all_lost=self.count, clock=lambda: self.now)
        self.leases = [
            Lease(make_claim(job_id), claimed_at=self.now, lease_seconds=30.0, clock=lambda: self.now)
            for job_id in job_ids
        ]
        for lease in self.leases:
            self.heartbeat.keep(lease)

    def renew(self, claims: Sequence[Claim]) -> list[Renewal]:
        self.asked.append([claim.job.id for claim in claims])
        if self.away:
            raise ConnectionError("the database is away")
        return [self.answers.get(claim.job.id, HELD) for claim in claims]

    def count(self) -> None:
        self.all_lost += 1


def test_a_renewed_lease_is_held_from_the_renewals_beginning() -> None:
    bench = Bench("job_a")
    (lease,) = bench.leases
    bench.now += 29.0
    bench.heartbeat.beat()
    bench.now += 29.0
    assert not lease.lost
    bench.now += 1.0
    assert lease.lost


def test_a_lease_that_the_truth_denies_is_lost_at_once_and_once() -> None:
    bench = Bench("job_a")
    bench.answers["job_a"] = DENIED
    bench.heartbeat.beat()
    bench.heartbeat.beat()
    assert bench.leases[0].lost
    assert (bench.all_lost, bench.asked) == (1, [["job_a"]])


def test_a_lease_outlives_a_database_that_is_away_for_less_than_it() -> None:
    bench = Bench("job_a")
    bench.away = True
    bench.now += 20.0
    bench.heartbeat.beat()
    assert not bench.leases[0].lost
    bench.now += 10.0
    bench.heartbeat.beat()
    assert bench.leases[0].lost
    assert bench.all_lost == 1


def test_a_cancel_is_seen_at_the_next_heartbeat_by_its_own_job_only() -> None:
    bench = Bench("job_a", "job_b")
    bench.answers["job_b"] = Renewal(held=True, cancel_requested=True)
    bench.heartbeat.beat()
    assert [(lease.cancelled, lease.lost) for lease in bench.leases] == [(False, False), (True, False)]


def test_all_leases_of_a_pack_are_renewed_in_one_go_without_those_that_are_settled() -> None:
    bench = Bench("job_b", "job_a", "job_c")
    bench.heartbeat.beat()
    bench.leases[0].settle()
    bench.heartbeat.beat()
    assert bench.asked == [["job_a", "job_b", "job_c"], ["job_a", "job_c"]]


def test_one_lost_lease_leaves_the_others_alone_and_only_the_last_stops_the_work() -> None:
    bench = Bench("job_a", "job_b", "job_c")
    bench.leases[2].settle()
    bench.answers["job_a"] = DENIED
    bench.heartbeat.beat()
    assert ([lease.lost for lease in bench.leases], bench.all_lost) == ([True, False, False], 0)
    bench.answers["job_b"] = DENIED
    bench.heartbeat.beat()
    assert bench.all_lost == 1


def test_a_heartbeat_that_crosses_the_attempts_end_changes_nothing() -> None:
    bench = Bench("job_a")
    (lease,) = bench.leases

    def renew(claims: Sequence[Claim]) -> list[Renewal]:
        lease.settle()
        return [DENIED for _ in claims]

    heartbeat = Heartbeat(renew, heartbeat_seconds=10.0, on_all_lost=bench.count, clock=lambda: bench.now)
    heartbeat.keep(lease)
    heartbeat.beat()
    assert not lease.lost
    assert bench.all_lost == 0


def test_the_heartbeat_runs_while_the_leases_are_in_use_and_ends_with_them() -> None:
    beaten = Event()

    def renew(claims: Sequence[Claim]) -> list[Renewal]:
        beaten.set()
        return [HELD for _ in claims]

    lease = Lease(make_claim(), claimed_at=0.0, lease_seconds=30.0, clock=lambda: 0.0)
    with Heartbeat(renew, heartbeat_seconds=0.01, on_all_lost=list, clock=lambda: 0.0) as heartbeat:
        heartbeat.keep(lease)
        assert beaten.wait(5)
    assert not lease.lost
