"""The real processes with configurations that can't work: one line that mends it, and the exit code 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from core.storage.local import LocalStore
from core.storage.ownership import claim_directory, claim_store
from core.truth.database import Database
from tests.fixtures.s3 import S3Server

MODULES = {
    "gateway": "gateway",
    "orchestrator": "orchestrator",
    "distillation": "workers.distillation",
    "inference": "workers.inference",
}


def start(process: str, directory: Path, **settings: str) -> tuple[int, str]:
    """The exit code, and the last line of stderr."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LATENTBANK_")},
        "LATENTBANK_DATA_DIR": str(directory / "data"),
        "LATENTBANK_INTERNAL_TOKEN": "a-long-random-text",
        **{f"LATENTBANK_{name}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", MODULES[process]]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("process", MODULES)
def test_every_process_refuses_a_misspelt_setting(process: str, tmp_path: Path) -> None:
    assert start(process, tmp_path, JOBS__LEASE_SECOND="30") == (
        2,
        f"latentbank {process} can't start: LATENTBANK_JOBS__LEASE_SECOND is no setting; did you mean "
        "LATENTBANK_JOBS__LEASE_SECONDS?",
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("process", "setting"), [("gateway", "GATEWAY__PORT"), ("orchestrator", "ORCHESTRATOR__METRICS_PORT")]
)
def test_a_port_that_is_taken_is_named_with_its_setting(
    process: str, setting: str, tmp_path: Path, taken_port: int
) -> None:
    code, line = start(process, tmp_path, **{setting: str(taken_port)})
    assert code == 2
    assert f"Nothing can listen on 127.0.0.1:{taken_port}" in line
    assert line.endswith(f"set LATENTBANK_{setting} to a free port.")


def test_a_data_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    code, line = start("orchestrator", tmp_path)
    assert code == 2
    assert "can't be written to" in line
    assert "LATENTBANK_DATA_DIR" in line


def test_a_base_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    code, line = start("gateway", tmp_path, BASE_MODEL="/no/such/model", GATEWAY__PORT="0")
    assert code == 2
    assert "/no/such/model does not exist" in line


def test_a_bucket_that_is_not_there_is_refused(tmp_path: Path, s3_server: S3Server) -> None:
    code, line = start(
        "orchestrator",
        tmp_path,
        ORCHESTRATOR__METRICS_PORT="0",
        STORAGE__URL="s3://there-is-none/x",
        STORAGE__ENDPOINT=s3_server.endpoint,
        STORAGE__ACCESS_KEY=s3_server.access_key,
        STORAGE__SECRET_KEY=s3_server.secret_key,
    )
    assert code == 2
    assert "The bucket there-is-none does not exist; create it first." in line


@pytest.mark.parametrize(
    ("process", "setting", "sentence"),
    [
        ("orchestrator", "STORAGE__URL", "set a bucket or a prefix of its own"),
        ("inference", "SERVING__NODE_CACHE_DIR", "set LATENTBANK_SERVING__NODE_CACHE_DIR to a directory of its own"),
    ],
)
def test_a_store_and_a_node_cache_that_another_truth_has_are_refused(
    process: str, setting: str, sentence: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    if setting == "STORAGE__URL":
        claim_store(LocalStore(shared), "truth_of_another")
    else:
        shared.mkdir()
        claim_directory(shared, "truth_of_another")
    where = f"file://{shared}" if setting == "STORAGE__URL" else str(shared)
    ports = {"ORCHESTRATOR__METRICS_PORT": "0", "SERVING__PORT": "0"}
    code, line = start(process, tmp_path, **ports, **{setting: where})
    assert code == 2
    assert "truth_of_another" in line
    assert sentence in line


def test_tables_of_another_application_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'data' / 'truth.db'}")
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('foreign')"))
    database.dispose()
    code, line = start("orchestrator", tmp_path, ORCHESTRATOR__METRICS_PORT="0")
    assert code == 2
    assert "another application" in line


def test_tables_that_are_too_old_are_refused_where_start_ups_do_not_migrate(tmp_path: Path) -> None:
    code, line = start("orchestrator", tmp_path, ORCHESTRATOR__METRICS_PORT="0", MIGRATE_AT_START="false")
    assert code == 2
    assert "run: latentbank migrate upgrade" in line


def test_a_database_that_is_away_is_no_fault_of_the_settings(tmp_path: Path) -> None:
    """So that whoever watches the process starts it again: a server that is away comes back."""
    code, line = start(
        "orchestrator", tmp_path, ORCHESTRATOR__METRICS_PORT="0", DATABASE_URL="postgresql://me:hidden@127.0.0.1:1/db"
    )
    assert code == 1
    assert "The database of LATENTBANK_DATABASE_URL does not answer" in line
    assert "hidden" not in line
