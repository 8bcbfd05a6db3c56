from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from core.gate.isotonic import knots


def test_the_steps_grow_and_never_reach_zero_or_one() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=500)
    labels = draw.uniform(size=500) < 1 / (1 + np.exp(-3 * scores))
    found = knots(scores, labels, np.ones(500))
    for axis in zip(*found, strict=True):
        assert all(a < b for a, b in pairwise(axis))
    assert found[0][1] > 0
    assert found[-1][1] < 1
    x, y = zip(*found, strict=True)
    assert np.interp([-1, 0, 1], x, y) == pytest.approx(1 / (1 + np.exp([3, 0, -3])), abs=0.1)


def test_weights_count_as_repetitions_do() -> None:
    scores, labels = np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, True, False, True])
    heavy = knots(scores, labels, np.array([2.0, 1.0, 1.0, 2.0]))
    assert heavy == knots(np.flip(scores), np.flip(labels), np.array([2.0, 1.0, 1.0, 2.0]))
    assert np.array(heavy) == pytest.approx(np.array([(0.0, 1.5 / 3.5), (1.5, 0.5), (3.0, 2 / 3.5)]))


def test_scores_against_the_labels_become_one_flat_step() -> None:
    assert knots(np.array([0.0, 1.0]), np.array([True, False]), np.ones(2)) == ((0.5, 0.5),)


def test_equal_scores_are_one_step() -> None:
    found = knots(np.zeros(10), np.arange(10) < 5, np.ones(10))
    assert found == ((0.0, 0.5),)
