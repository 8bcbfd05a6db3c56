from __future__ import annotations

import pytest

from core.errors import InvalidKey, ObjectMissing, StorageError
from core.storage.retries import retrying


def test_pauses_double_up_to_a_limit_and_the_last_failure_is_raised() -> None:
    pauses: list[float] = []

    def fail() -> None:
        raise StorageError(f"failure {len(pauses)}")

    with pytest.raises(StorageError, match="failure 7"):
        retrying(fail, attempts=8, sleep=pauses.append)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize("error", [ObjectMissing, InvalidKey, ValueError])
def test_what_is_no_failure_of_the_store_is_raised_at_once(error: type[Exception]) -> None:
    calls = []

    def answer() -> None:
        calls.append(1)
        raise error

    with pytest.raises(error):
        retrying(answer, attempts=5, sleep=lambda _: pytest.fail("paused"))
    assert len(calls) == 1
