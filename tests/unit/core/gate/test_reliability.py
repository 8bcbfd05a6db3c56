from __future__ import annotations

import numpy as np
import pytest

from core.gate.reliability import auroc, bins


def test_auroc_counts_ties_half() -> None:
    assert auroc([2.0, 1.0], [1.0, 0.0]) == pytest.approx(0.875)


def test_bins_say_how_often_the_memory_answered() -> None:
    scores = np.array([0.05, 0.05, 0.95, 1.0])
    low, high = bins(scores, np.array([False, True, True, True]), np.array([3.0, 1.0, 1.0, 1.0]))
    assert (low.low, low.high, low.questions, low.own) == (0.0, 0.1, 2, 0.25)
    assert (high.questions, high.own) == (2, 1.0)
    assert high.score == pytest.approx(0.975)
