from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.cli import progress
from tests.unit.core.cli.gateway_double import GatewayDouble


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GatewayDouble]:
    """The gateway that the environment names, with the keys of one tenant and of the admin."""
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.0)
    with GatewayDouble(keys={"lb_harbour": "harbour"}) as double:
        monkeypatch.setenv("LATENTBANK_GATEWAY_URL", double.url)
        monkeypatch.setenv("LATENTBANK_API_KEY", "lb_harbour")
        monkeypatch.setenv("LATENTBANK_ADMIN_KEY", double.admin_key)
        monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path))
        yield double
