from __future__ import annotations

from tests.unit.core.cli.gateway_double import GatewayDouble
from tests.unit.core.cli.test_commands import run


def test_a_collection_is_forgotten_by_its_name_and_the_deletion_can_be_followed(gateway: GatewayDouble) -> None:
    told = run("forget", "--collection", "users/anna", "--yes").output
    assert "latentbank deletion del_1" in told
    method, path, query = gateway.requests[-1]
    assert (method, path, query["collection"]) == ("DELETE", "/v1/memories", "users/anna")
    assert "attested" in run("deletion", "del_1").output


def test_forget_wants_a_memory_or_a_collection_and_not_both(gateway: GatewayDouble) -> None:
    before = list(gateway.requests)
    for arguments in ((), ("mem_0", "--collection", "a")):
        assert run("forget", *arguments, "--yes").exit_code != 0
    assert gateway.requests == before


def test_a_tenant_is_deleted_with_the_admin_key_after_asking_back(gateway: GatewayDouble) -> None:
    assert run("tenants", "delete", "tenant_harbour", stdin="n\n").exit_code != 0
    assert not [one for one in gateway.requests if one[0] == "DELETE"]
    assert "is deleted" in run("tenants", "delete", "tenant_harbour", stdin="y\n").output
    assert gateway.requests[-1][:2] == ("DELETE", "/v1/tenants/tenant_harbour")
