from __future__ import annotations

import numpy as np
import pytest

from core.evaluation.intervals import Figure, bootstrap

VALUES = np.array([0.0, 1.0] * 50)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=100)
    one, again, other = (bootstrap(100, lambda sample: values[sample].mean(), seed) for seed in (1, 1, 2))
    assert one == again
    assert one.interval != other.interval


def test_the_interval_of_a_mean_is_about_two_standard_errors_each_way() -> None:
    figure = bootstrap(100, lambda sample: VALUES[sample].mean(), 0, resamples=4000)
    assert figure.value == 0.5
    assert figure.interval == pytest.approx((0.402, 0.598), abs=0.02)
    assert figure.n == 100


def test_nothing_to_resample_gives_no_value() -> None:
    assert bootstrap(0, lambda _: 1.0, 0) == Figure(None, None, 0)


def test_a_value_that_is_not_defined_is_none_and_such_resamples_are_left_out() -> None:
    assert bootstrap(3, lambda _: None, 0) == Figure(None, None, 3)
    # The first question has to be in the sample.
    figure = bootstrap(3, lambda sample: 1.0 if 0 in sample else float("nan"), 0)
    assert figure == Figure(1.0, (1.0, 1.0), 3)
