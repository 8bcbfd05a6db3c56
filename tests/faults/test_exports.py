"""A trainer that goes wrong: its memory's job fails clearly, and the others go on."""

from __future__ import annotations

import pytest

from tests.faults.client import Tenant
from tests.faults.stack import MAX_ATTEMPTS, Stack


@pytest.mark.parametrize("flaw", ["empty", "nan", "zero", "foreign"])
def test_a_flawed_export_is_never_published(tenant: Tenant, flaw: str) -> None:
    bad, good = tenant.remember(flaw), tenant.remember("train")
    job = tenant.ended(bad[1], "failed")
    assert job["error"]["code"] in ("adapter_invalid", "wrong_base")
    assert tenant.memory(bad[0])["version"] is None
    tenant.ended(good[1])


@pytest.mark.parametrize("end", ["break", "die"])
def test_out_of_memory_on_every_attempt_ends_as_poison_and_the_others_go_on(
    stack: Stack, tenant: Tenant, end: str
) -> None:
    bad, others = tenant.remember(end), [tenant.remember("train") for _ in range(3)]
    job = tenant.ended(bad[1], "failed")
    assert tenant.events(bad[1]).count("A worker has taken the job.") == MAX_ATTEMPTS
    assert job["error"] is not None
    for _, job_id in others:
        tenant.ended(job_id)
