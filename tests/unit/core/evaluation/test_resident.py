from __future__ import annotations

import os
from threading import Event

from core.evaluation.resident import tree_bytes, watching


def test_the_peak_is_the_most_that_was_seen() -> None:
    seen, over = iter([3, 9, 4]), Event()

    def read(_: int) -> int:
        value = next(seen, None)
        if value is None:
            over.set()
        return value or 0

    with watching(1, period=0.001, read=read) as peak:
        assert over.wait(5)
    assert peak.bytes == 9


def test_a_process_holds_memory_and_one_that_is_gone_holds_none() -> None:
    assert tree_bytes(os.getpid()) > 1_000_000
    assert tree_bytes(2**22 + 1) == 0
