"""What tenants do to each other, and to themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
from sqlalchemy import select

from core.truth.tables import jobs
from tests.faults.client import Tenant, new_tenant
from tests.faults.stack import Stack


def test_a_flood_does_not_hold_up_another_tenant(stack: Stack, tenants: list[Tenant]) -> None:
    flood, small = new_tenant(stack, "flood"), new_tenant(stack, "small")
    tenants += [flood, small]
    with ThreadPoolExecutor(8) as pool:
        many = [job_id for _, job_id in pool.map(lambda _: flood.remember("wait flood"), range(40))]
    one = small.remember("train")[1]
    (stack.directory / "flood").touch()
    small.ended(one)
    for job_id in many:
        flood.ended(job_id)
    (stack.directory / "flood").unlink()
    with stack.database.read() as connection:
        query = select(jobs.c.id, jobs.c.finished_at).where(jobs.c.id.in_([one, *many]))
        ends = {row.id: row.finished_at for row in connection.execute(query)}
    later = sum(ends[job_id] > ends[one] for job_id in many)
    assert later >= 8, "the one that came last was not last"


def test_a_key_sent_again_with_another_body_is_refused_also_after_a_crash(stack: Stack, tenant: Tenant) -> None:
    stack.orders.give("gateway: admission committed", "kill")
    _, job_id = tenant.remember("train", title="The first")
    assert stack.orders.taken("gateway: admission committed"), "its client asked again with its key"
    answer = tenant.call(
        "POST", "/v1/memories", json={"title": "A", "text": "train"}, headers={"Idempotency-Key": "k1"}
    )
    made = answer.json()
    tenant.acknowledged[made["id"]] = [("train", made["job_id"])]
    other = httpx.post(
        f"{stack.gateway_url}/v1/memories",
        json={"title": "A", "text": "something else"},
        headers={"Authorization": f"Bearer {tenant.key}", "Idempotency-Key": "k1"},
    )
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    for one in (job_id, made["job_id"]):
        tenant.ended(one)
