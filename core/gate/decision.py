"""The gate's decision: pure, and the same in calibration and in serving."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

CLIP = 4.0
"""What lies further than this many deviations from all calibration counts no more than this."""
TIE_BREAK = 0.02
"""Share of the plain logistic in a score, so that equal probabilities still rank by their log-odds."""


@dataclass(frozen=True, slots=True)
class GateModel:
    """A logistic model over standardised features, made a probability by isotonic steps, and its threshold.

    `log_odds = bias + Σ weight · clip((feature − mean) / scale, −4, 4)`. `steps` are `(log-odds, probability)`, both
    growing, and interpolated between; without any, the logistic itself is the probability. A score is strictly between
    0 and 1 and grows with the log-odds. From `doubt_from` up to the threshold the gate is in doubt, below it knows that
    the memory does not answer; by default it is never in doubt.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float
    threshold: float
    steps: tuple[tuple[float, float], ...] = ()
    doubt_from: float = 1.0

    def log_odds(self, features: Sequence[float]) -> float:
        total = self.bias
        for value, mean, scale, weight in zip(features, self.mean, self.scale, self.weight, strict=True):
            total += weight * max(-CLIP, min(CLIP, (value - mean) / scale))
        return total

    def score(self, features: Sequence[float]) -> float:
        return self.calibrated(self.log_odds(features))

    def calibrated(self, log_odds: float) -> float:
        """The score of a question with these log-odds."""
        logistic = 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, log_odds))))
        if not self.steps:
            return logistic
        return (1.0 - TIE_BREAK) * self._stepped(log_odds) + TIE_BREAK * logistic

    def _stepped(self, log_odds: float) -> float:
        right = bisect_right(self.steps, log_odds, key=lambda step: step[0])
        if right == 0 or right == len(self.steps):
            return self.steps[max(0, right - 1)][1]
        (x0, y0), (x1, y1) = self.steps[right - 1 : right + 1]
        return y0 + (y1 - y0) * (log_odds - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Scored:
    """One candidate as the gate judged it."""

    memory_id: str
    score: float
    threshold: float

    @property
    def passes(self) -> bool:
        return self.score >= self.threshold


def choose(scored: Sequence[Scored], max_active: int = 1) -> tuple[Scored, ...]:
    """The candidates that may speak, best first; empty means abstain. Ties go to the lower memory id."""
    passing = [candidate for candidate in scored if candidate.passes]
    return tuple(sorted(passing, key=lambda c: (-c.score, c.memory_id))[:max_active])


def doubtful(scored: Sequence[Scored], doubt_from: float) -> Scored | None:
    """The best candidate, where it neither passes nor is ruled out: its score is `doubt_from` or more."""
    best = min(scored, key=lambda c: (-c.score, c.memory_id), default=None)
    return None if best is None or best.passes or best.score < doubt_from else best


def mix(scores: Sequence[float]) -> tuple[float, ...]:
    """How strongly each of the active memories speaks: its score, the largest made 1. Scores are above 0."""
    return tuple(score / max(scores) for score in scores)
