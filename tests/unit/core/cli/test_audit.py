from __future__ import annotations

import json

from tests.unit.core.cli.gateway_double import GatewayDouble
from tests.unit.core.cli.test_commands import run

RECORD = {
    "id": 7,
    "created_at": 1700000000,
    "actor": "key:key_a",
    "action": "memory.revised",
    "subject": {"kind": "memory", "id": "mem_0"},
    "data": {"job_id": "job_1"},
}


def test_audit_tells_who_did_what(gateway: GatewayDouble) -> None:
    assert "Nothing is recorded." in run("audit").output
    gateway.audit.append(RECORD)
    told = run("audit", "--action", "memory.revised", "--subject", "mem_0").output
    assert all(word in told for word in ("key:key_a", "memory.revised", "memory mem_0", "job_id job_1")), told
    method, path, query = gateway.requests[-1]
    assert (method, path) == ("GET", "/v1/audit")
    assert (query["action"], query["subject"]) == ("memory.revised", "mem_0")


def test_audit_of_another_tenant_asks_with_the_admin_key(gateway: GatewayDouble) -> None:
    gateway.audit.append(RECORD)
    assert json.loads(run("audit", "--tenant", "tenant_a", "--json").stdout) == [RECORD]
    assert gateway.requests[-1][1] == "/v1/tenants/tenant_a/audit"
