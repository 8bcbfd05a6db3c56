from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from core.gate.decision import GateModel, Scored, choose, doubtful, mix
from core.gate.features import FEATURES, DraftSignals, GroundingSignals, RetrievalSignals, vector


def model(**weights: float) -> GateModel:
    count = len(FEATURES)
    return GateModel((0.0,) * count, (1.0,) * count, tuple(weights.get(name, 0.0) for name in FEATURES), 0.0, 0.5)


def features(**values: float) -> tuple[float, ...]:
    return tuple(values.get(name, 0.0) for name in FEATURES)


def test_the_score_is_the_logistic_of_the_weighted_features() -> None:
    assert model(dense=2.0).score(features()) == 0.5
    assert model(dense=2.0).score(features(dense=1.0)) == pytest.approx(1 / (1 + math.exp(-2)))


def test_a_feature_far_from_all_calibration_counts_no_more_than_four_deviations() -> None:
    gate = model(kl=1.0)
    assert gate.score(features(kl=1e9)) == gate.score(features(kl=4.0))
    assert gate.score(features(kl=-1e9)) == gate.score(features(kl=-4.0))


def test_steps_make_the_score_a_probability_that_still_grows_with_the_log_odds() -> None:
    gate = replace(model(dense=1.0), steps=((-1.0, 0.1), (1.0, 0.5), (2.0, 0.5), (3.0, 0.9)))
    scores = [gate.score(features(dense=at / 10)) for at in range(-40, 41)]
    assert all(low < high for low, high in pairwise(scores))
    assert 0 < scores[0] < 0.1 < 0.9 < scores[-1] < 1
    assert gate.score(features(dense=0.0)) == pytest.approx(0.3, abs=0.02)


def test_the_vector_has_the_features_in_their_order() -> None:
    draft = DraftSignals(3.0, 1.0, 0.1, 0.2, 0.3, 0.4, -0.5, -1.5)
    made = dict(zip(FEATURES, vector(RetrievalSignals(0.9, 0.8, 0.7), draft, GroundingSignals(3.0, 2.0)), strict=True))
    assert (made["dense"], made["lexical"], made["kl"]) == (0.9, 0.8, 0.2)
    assert (made["supported"], made["unsupported"]) == (3.0, 2.0)
    assert made["entropy_drop"] == 2.0
    assert made["likelihood_gain"] == 1.0


def test_the_best_that_pass_speak_and_none_means_abstain() -> None:
    low, high, failing = Scored("mem_b", 0.7, 0.5), Scored("mem_a", 0.9, 0.5), Scored("mem_c", 0.95, 0.99)
    assert choose([low, high, failing]) == (high,)
    assert choose([low, high, failing], max_active=3) == (high, low)
    assert choose([failing]) == ()
    assert choose([]) == ()


def test_ties_go_to_the_lower_memory_id() -> None:
    twins = [Scored("mem_b", 0.7, 0.5), Scored("mem_a", 0.7, 0.5)]
    assert choose(twins)[0].memory_id == "mem_a"


def test_the_strongest_of_a_mix_speaks_in_full_and_the_others_by_their_scores() -> None:
    assert mix([0.9]) == (1.0,)
    assert mix([0.8, 0.4]) == (1.0, 0.5)


def test_the_gate_is_in_doubt_about_the_best_that_neither_passes_nor_is_ruled_out() -> None:
    passing, near, far = Scored("mem_a", 0.7, 0.6), Scored("mem_b", 0.5, 0.6), Scored("mem_c", 0.3, 0.6)
    assert doubtful([far, near], 0.4) == near
    assert doubtful([near], 0.5) == near
    assert doubtful([near], 0.51) is None
    assert doubtful([near, passing], 0.4) is None
    assert doubtful([Scored("mem_d", 0.5, 0.6), near], 0.4) == near
    assert doubtful([], 0.0) is None


def test_a_gate_that_names_no_lower_bound_is_never_in_doubt() -> None:
    gate = model(dense=1.0)
    score = gate.score(features(dense=4.0))
    assert doubtful([Scored("mem_a", score, 1.0)], gate.doubt_from) is None
