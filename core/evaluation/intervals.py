"""Figures with 95 % percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95

Sample = NDArray[np.int64]
"""Numbers of questions; in a resample some occur several times, some never."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, its interval, and the number of questions behind it; `None` where it is not defined."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


def bootstrap(
    size: int,
    statistic: Callable[[Sample], float | None],
    seed: int,
    *,
    resamples: int = RESAMPLES,
    n: int | None = None,
) -> Figure:
    """`statistic` of all `size` questions, and its spread over resamples; a seed always gives the same interval.

    A statistic may be `None` or NaN where a sample does not define it; such resamples are left out. `n` says how many
    questions count where not all of `size` do.
    """
    counted = size if n is None else n
    value = _defined(statistic(np.arange(size))) if size else None
    if value is None:
        return Figure(None, None, counted)
    generator = np.random.default_rng(seed)
    drawn = (_defined(statistic(generator.integers(0, size, size))) for _ in range(resamples))
    spread = [one for one in drawn if one is not None]
    if not spread:
        return Figure(value, None, counted)
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, (float(low), float(high)), counted)


def _defined(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
