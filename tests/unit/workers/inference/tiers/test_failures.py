from __future__ import annotations

from core.errors import ObjectMissing, StorageError
from workers.inference.tiers.failures import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Failure


def test_the_pause_doubles_with_each_failure_in_a_row_up_to_the_longest() -> None:
    failure, pauses = None, []
    for now in range(40):
        failure = Failure.after(failure, StorageError(), now)
        pauses.append(failure.retry_at - now)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == max(pauses) == LONGEST_PAUSE_SECONDS


def test_the_last_problem_is_told_without_the_trace_of_the_last_time() -> None:
    failure = Failure.after(Failure.after(None, StorageError(), 0.0), ObjectMissing(), 5.0)
    for _ in range(3):
        try:
            raise failure.again()
        except ObjectMissing as problem:
            trace = problem.__traceback__
            assert trace is not None
            assert trace.tb_next is None
