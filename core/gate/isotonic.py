"""Isotonic regression: from a score that only ranks to a probability (pool adjacent violators, Ayer et al. 1955)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Knots = tuple[tuple[float, float], ...]
"""`(score, probability)`, both growing; between two of them the probability is interpolated."""


def knots(scores: Array, labels: NDArray[np.bool_], weights: Array) -> Knots:
    """The monotone step function nearest to `labels`, as the centres of its steps. All arrays are `[n]`, n > 0.

    One negative of average weight is added above all scores and one positive below, so that no probability is 0 or 1:
    a handful of questions can't show that.
    """
    average = float(weights.mean())
    unique, group = np.unique(scores, return_inverse=True)
    mass = np.bincount(group, weights, len(unique))
    positive = np.bincount(group, weights * labels, len(unique))
    mass[0], positive[0] = mass[0] + average, positive[0] + average
    mass[-1] += average
    steps: list[tuple[float, float, float]] = []
    for score, total, yes in zip(unique.tolist(), mass.tolist(), positive.tolist(), strict=True):
        step = (score * total, total, yes)
        while steps and steps[-1][2] * step[1] >= step[2] * steps[-1][1]:
            before = steps.pop()
            step = (before[0] + step[0], before[1] + step[1], before[2] + step[2])
        steps.append(step)
    return tuple((weighted / total, yes / total) for weighted, total, yes in steps)
