from __future__ import annotations

from datetime import UTC, datetime, timedelta

from core.truth.records import Job, Memory, Tenant
from gateway.schemas import TenantObject
from gateway.views import estimated_finish, job_object, memory_object, page, seconds, tenant_object

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_job_with_a_pace_of_its_own_is_estimated_by_it() -> None:
    job = _job(state="running", progress=0.25, started_at=START)
    assert estimated_finish(job, START + timedelta(seconds=30)) == seconds(START) + 120


def test_a_job_that_has_just_begun_is_estimated_by_its_cost() -> None:
    job = _job(state="running", progress=0.0, started_at=START)
    assert estimated_finish(job, START + timedelta(seconds=1)) == seconds(START) + 90


def test_an_estimate_is_never_in_the_past() -> None:
    job = _job(state="running", progress=0.0, started_at=START)
    late = START + timedelta(seconds=500)
    assert estimated_finish(job, late) == seconds(late)


def test_what_does_not_run_has_no_estimate() -> None:
    assert estimated_finish(_job(state="queued"), START) is None
    assert estimated_finish(_job(state="succeeded", started_at=START, progress=1.0), START) is None


def test_a_job_without_an_error_has_none() -> None:
    assert job_object(_job(state="queued"), START).error is None
    failed = job_object(_job(state="failed", error_code="poison", error_message=None), START)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("poison", "")


def test_a_deleted_memory_shows_nothing_of_its_content() -> None:
    memory = _memory(status="deleted", deleted_at=START)
    shown = memory_object(memory, "job_a")
    assert (shown.title, shown.metadata, shown.deleted_at) == ("", {}, seconds(START))


def test_a_page_hides_the_one_too_many() -> None:
    def item(number: int) -> TenantObject:
        return tenant_object(Tenant(f"tenant_{number}", "a", 1.0, {}, 0, START))

    full = page([1, 2, 3], 2, item)
    assert ([one.id for one in full.data], full.has_more, full.last_id) == (["tenant_1", "tenant_2"], True, "tenant_2")
    assert page([], 2, item).model_dump() == {
        "object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None
    }  # fmt: skip


def _job(**fields: object) -> Job:
    values: dict[str, object] = dict.fromkeys(Job.__slots__)
    values |= {"id": "job_a", "memory_id": "mem_a", "created_at": START, "cost_estimate_seconds": 90.0}
    values |= {"progress": 0.0, "attempts": 0, "cancel_requested": False}
    return Job(**(values | fields))  # type: ignore[arg-type]


def _memory(**fields: object) -> Memory:
    values: dict[str, object] = dict.fromkeys(Memory.__slots__)
    values |= {"id": "mem_a", "title": "My diagnosis", "metadata": {"a": 1}, "kind": "text", "collection": "default"}
    values |= {"context_tokens": 5, "created_at": START, "updated_at": START}
    return Memory(**(values | fields))  # type: ignore[arg-type]
