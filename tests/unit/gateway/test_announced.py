from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from core.internal import PROOF
from core.truth.database import Database
from core.truth.workers import announce, withdraw
from gateway.announced import Announced
from gateway.trusted import Trusted
from tests.fixtures.internal import access, secrets_from

TOKEN = "internal-token-of-the-test"
URL = "http://127.0.0.1:9"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'truth.db'}")
    database.migrate()
    yield database
    database.dispose()


def come(database: Database, worker_id: str) -> None:
    with database.begin() as connection:
        announce(connection, worker_id, "inference", URL, {PROOF: access(TOKEN, worker_id).proof(URL)}, 3600)


def go(database: Database, worker_id: str) -> None:
    with database.begin() as connection:
        withdraw(connection, worker_id)


def test_the_truth_is_read_once_in_a_while_for_many_questions(database: Database) -> None:
    clock = Clock()
    announced = Announced(Trusted(database, secrets_from(TOKEN)).workers, 1.0, clock)
    come(database, "worker_a")
    reads: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *call: reads.append(call[2]))
    for _ in range(100):
        assert set(announced.workers()) == {"worker_a"}
    assert len([one for one in reads if "FROM workers" in one]) == 1
    come(database, "worker_b")
    go(database, "worker_a")
    clock.now = 0.9
    assert set(announced.workers()) == {"worker_a"}
    clock.now = 1.0
    assert set(announced.workers()) == {"worker_b"}


def test_doubt_ends_a_list_before_its_time(database: Database) -> None:
    announced = Announced(Trusted(database, secrets_from(TOKEN)).workers, 3600.0, Clock())
    come(database, "worker_a")
    assert set(announced.workers()) == {"worker_a"}
    go(database, "worker_a")
    announced.doubt()
    assert announced.workers() == {}


def test_an_empty_list_is_never_used_again(database: Database) -> None:
    announced = Announced(Trusted(database, secrets_from(TOKEN)).workers, 3600.0, Clock())
    assert announced.workers() == {}
    come(database, "worker_a")
    assert set(announced.workers()) == {"worker_a"}


def test_a_list_that_could_not_be_read_anew_is_not_taken_for_a_fresh_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = Announced(Trusted(database, secrets_from(TOKEN)).workers, 3600.0, Clock())
    come(database, "worker_a")
    assert set(announced.workers()) == {"worker_a"}
    go(database, "worker_a")
    come(database, "worker_b")
    announced.doubt()
    with monkeypatch.context() as away:
        away.setattr(database, "read", _unreachable)
        with pytest.raises(ConnectionError):
            announced.workers()
    assert set(announced.workers()) == {"worker_b"}


def _unreachable() -> Database:
    raise ConnectionError("the truth is away")
