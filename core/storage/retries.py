"""Bounded retries of what an object store failed to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from core.errors import InvalidKey, ObjectMissing, StorageError

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


def retrying(action: Callable[[], T], *, attempts: int, sleep: Callable[[float], None] = time.sleep) -> T:
    """Runs `action` until it raises no `StorageError`, at most `attempts` times, pausing twice as long each time.

    A missing object and a bad key are answers, not failures: they are raised at once. The last failure is raised as it
    is. `action` must be safe to repeat after it succeeded unnoticed.
    """
    for attempt in range(attempts - 1):
        try:
            return action()
        except (ObjectMissing, InvalidKey):
            raise
        except StorageError:
            sleep(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt))
    return action()
