"""Which questions are under way: those of which anything is left, be it an admission, a waiting row or a lease."""

from __future__ import annotations

import itertools
import threading
import weakref

from workers.inference.question import Question


class UnderWay:
    """Thread-safe. Nobody has to say when a question ends: whatever holds its adapters holds the question too."""

    def __init__(self) -> None:
        self._questions: weakref.WeakValueDictionary[int, Question] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def add(self, question: Question) -> None:
        with self._lock:
            self._questions[next(self._numbers)] = question

    def oldest(self) -> float | None:
        """When the first of them arrived, on `time.perf_counter`'s clock; `None` where there is none."""
        with self._lock:
            return min((question.arrived for question in list(self._questions.values())), default=None)
