from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.cli.keys import API_KEY, KeyFiles
from core.credentials import key_id, key_sha256
from tests.unit.core.cli.gateway_double import GatewayDouble
from tests.unit.core.cli.test_commands import run


def test_keys_are_listed_without_the_keys_themselves(gateway: GatewayDouble) -> None:
    told = run("keys", "list").output
    assert "key_a" in told
    assert "lb_" not in told
    assert gateway.requests[-1][:2] == ("GET", "/v1/keys")


def test_a_key_is_issued_with_scopes_and_an_end_and_shown_once(gateway: GatewayDouble) -> None:
    told = run("keys", "issue", "the asker", "--scope", "query", "--scope", "read", "--days", "2").output
    assert "lb_successor" in told
    assert gateway.requests[-1] == (
        "POST",
        "/v1/keys",
        {"name": "the asker", "scopes": ["query", "read"], "expires_in_seconds": 172800},
    )


def test_the_admin_manages_another_tenants_keys(gateway: GatewayDouble) -> None:
    for arguments in (("list",), ("issue", "x"), ("rotate", "key_a"), ("revoke", "key_a")):
        result = run("keys", *arguments, "--tenant", "tenant_a", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)
        assert gateway.requests[-1][1].startswith("/v1/tenants/tenant_a/keys")


def test_where_this_machines_own_key_is_rotated_its_file_has_the_new_one(
    gateway: GatewayDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATENTBANK_API_KEY")
    files = KeyFiles(tmp_path / "secrets")
    files.keep(API_KEY, "lb_harbour")
    run("keys", "rotate", "key_of_another", "--grace-hours", "1")
    assert files.read(API_KEY) == "lb_harbour"
    own = key_id(key_sha256("lb_harbour"))
    result = run("keys", "rotate", own, "--grace-hours", "0")
    assert result.exit_code == 0, result.output
    assert gateway.requests[-1] == ("POST", f"/v1/keys/{own}/rotate", {"grace_seconds": 0})
    assert files.read(API_KEY) == "lb_successor"


def test_a_key_is_revoked_by_its_id(gateway: GatewayDouble) -> None:
    assert "key_a is revoked" in run("keys", "revoke", "key_a").output
    assert gateway.requests[-1][:2] == ("DELETE", "/v1/keys/key_a")
