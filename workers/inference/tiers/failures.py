"""What failed, and when it may be tried again: the pause doubles with each failure in a row. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import LatentBankError

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """`times` in a row, last with `problem`; not to be tried before `retry_at`, on the caller's clock."""

    problem: LatentBankError
    times: int
    retry_at: float

    @staticmethod
    def after(before: Failure | None, problem: LatentBankError, now: float) -> Failure:
        """`problem` at `now`, after what failed `before` without a success since."""
        times = 1 if before is None else before.times + 1
        # Beyond a few doublings the longest pause is reached, whatever the power.
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(times - 1, 16))
        return Failure(problem, times, now + pause)

    def again(self) -> LatentBankError:
        """The problem, to be raised once more; without the trace of the last time, which would grow with every one."""
        return self.problem.with_traceback(None)
