"""How good scores are: how well they rank, and whether they are the probabilities that they claim to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Scores from `low` to `high`: how many questions, their mean score, and the share that the memory answers.

    Both means count questions as the calibration does: the two classes alike.
    """

    low: float
    high: float
    questions: int
    score: float
    own: float


def auroc(positives: Sequence[float] | Array, negatives: Sequence[float] | Array) -> float:
    """The chance that a positive scores above a negative, ties counted half. Neither may be empty."""
    below = np.sort(np.asarray(negatives, dtype=np.float64))
    values = np.asarray(positives, dtype=np.float64)
    beaten = np.searchsorted(below, values, "left") + np.searchsorted(below, values, "right")
    return float(beaten.mean() / (2 * len(below)))


def bins(scores: Array, labels: NDArray[np.bool_], weights: Array) -> tuple[Bin, ...]:
    """The reliability of `scores` in 0 to 1, in ten bins of equal width; empty ones are left out. Arrays are `[n]`."""
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    found = []
    for number in np.unique(place).tolist():
        inside = place == number
        share = weights[inside] / weights[inside].sum()
        found.append(
            Bin(
                number / BINS,
                (number + 1) / BINS,
                int(inside.sum()),
                float(share @ scores[inside]),
                float(share @ labels[inside]),
            )
        )
    return tuple(found)
