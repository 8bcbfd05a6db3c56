"""migrate, backup, restore, verify, and what the doctor says of settings, tables and clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.cli import setting_checks
from core.cli.main import app
from core.settings import JobSettings, Settings
from core.truth import schema
from core.truth.database import Database
from tests.fixtures.truth import add_tenant


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def settings(**fields: object) -> Settings:
    return Settings(_env_file=None, **fields)  # type: ignore[arg-type]


def test_migrate_says_what_is_to_come_and_brings_it() -> None:
    before = run("migrate", "status")
    assert before.exit_code == 1
    assert "latentbank migrate upgrade" in before.output
    assert run("migrate", "upgrade").exit_code == 0
    after = run("migrate", "status", "--json")
    assert after.exit_code == 0
    told = json.loads(after.stdout)
    assert told["pending"] == []
    assert told["current"] == told["head"]


def test_a_backup_is_restored_elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("migrate", "upgrade")
    database = Database(settings().resolved_database_url)
    add_tenant(database, "harbour")
    database.dispose()
    assert run("verify").exit_code == 0
    made = run("backup", str(place / "backup"), "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["memories"] == 0
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(place / "other"))
    restored = run("restore", str(place / "backup"))
    assert restored.exit_code == 0, restored.output
    assert "is here again" in restored.output
    verified = run("verify", "--json")
    assert json.loads(verified.stdout) == {"memories": 0, "objects": 0, "unnamed": 0, "unnamed_bytes": 0, "faults": []}


def test_the_doctor_names_misspelt_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setting_checks.names(settings()).state == "ok"
    monkeypatch.setenv("LATENTBANK_GATEWAY__PROT", "1")
    found = setting_checks.names(settings())
    assert found.state == "missing"
    assert "LATENTBANK_GATEWAY__PORT" in found.detail


def test_the_doctor_names_settings_that_no_process_would_start_with() -> None:
    assert setting_checks.values(settings()).state == "ok"
    assert setting_checks.values(settings(database_url="mysql://x")).state == "missing"
    strange = setting_checks.values(settings(jobs=JobSettings(garbage_margin_seconds=1)))
    assert (strange.state, "GARBAGE_MARGIN" in strange.detail) == ("warning", True)


def test_the_doctor_compares_tables_and_clock() -> None:
    assert setting_checks.tables(settings()).state == "warning"
    database = Database(settings().resolved_database_url)
    schema.upgrade(database)
    database.dispose()
    assert setting_checks.tables(settings()).state == "ok"
    assert setting_checks.clock(settings()).state == "ok"
    away = settings(database_url="postgresql://nobody@127.0.0.1:1/x")
    assert setting_checks.tables(away).state == "warning"
    assert setting_checks.clock(away).state == "warning"


def test_the_clocks_are_compared_without_what_the_question_took(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime, timedelta

    from core.preflight import skew_seconds

    database = Database(settings().resolved_database_url)
    assert abs(skew_seconds(database)) < 1
    for hours in (-1, 1):
        ahead = datetime.now(UTC) + timedelta(hours=hours)
        monkeypatch.setattr(database, "now", lambda _, told=ahead: told)
        assert round(skew_seconds(database) / 3600) == hours
    database.dispose()
