"""How far this worker has followed the truth: what it announces, so that deletions can be attested.

A pass takes out of every tier what is deleted. But a question that was under way when it began may still use that, or
bring it back. So it counts at once where there was none, as in a worker that has just started, and else when another
pass was done that began after all of those had ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

_MOST_PASSES = 256


@dataclass(frozen=True, slots=True)
class Pass:
    """Begun at `at` by the truth's clock and `began` by this process's; `oldest` was then the longest under way."""

    at: datetime
    began: float
    oldest: float | None


class Following:
    """`until` is the instant up to which nothing that was deleted is in any tier here. Belongs to one thread."""

    def __init__(
        self,
        present: Callable[[], datetime],
        *,
        oldest: Callable[[], float | None],
        letting_go: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._present = present
        self._oldest = oldest
        self._letting_go = letting_go
        self._clock = clock
        # While one question lasts very long, the oldest passes are those that count first.
        self._passes: deque[Pass] = deque()
        self.until: datetime | None = None

    def begin(self) -> Pass:
        """A pass begins; raises where the truth does not answer."""
        at = self._present()
        return Pass(at, self._clock(), self._oldest())

    def end(self, this: Pass) -> None:
        """The pass was done, and left nothing that it found."""
        if len(self._passes) < _MOST_PASSES:
            self._passes.append(this)
        if not self._letting_go():
            while self._passes and (this.oldest is None or self._passes[0].began < this.oldest):
                self.until = self._passes.popleft().at
