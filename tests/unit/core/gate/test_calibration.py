from __future__ import annotations

import math

import numpy as np
import pytest

from core.gate.calibration import fit
from core.gate.decision import GateModel
from core.gate.features import FEATURES
from core.gate.prior import PRIOR
from core.gate.samples import Sample
from tests.unit.core.gate.examples import memory, samples


def passing(gate: GateModel, asked: list[Sample]) -> float:
    return sum(gate.score(sample.features) >= gate.threshold for sample in asked) / len(asked)


def negatives(count: int, seed: int) -> list[Sample]:
    """In the mixture of `memory`, without near misses."""
    return [s for i in range(count) for s in memory(seed * 1000 + i, own=0, near_miss=0)]


@pytest.mark.parametrize("memories", [1, 2, 8])
def test_a_banks_gate_lets_new_questions_of_its_memories_pass_and_keeps_others_out(memories: int) -> None:
    gate, report = fit([memory(seed, own=20) for seed in range(memories)], 0.05)
    assert report.rule == "conformal"
    assert report.memories == memories
    assert report.counts == {
        "own": 20 * memories,
        "near_miss": 8 * memories,
        "unrelated": 20 * memories,
        "wrong_adapter": 6 * memories,
    }
    assert passing(gate, samples("own", 200, seed=77)) > 0.8
    assert passing(gate, samples("unrelated", 200, seed=77)) < 0.02
    assert passing(gate, samples("wrong_adapter", 200, seed=77)) < 0.05


@pytest.mark.parametrize(("memories", "rate"), [(1, 0.05), (2, 0.05), (2, 0.1), (4, 0.2)])
def test_the_promised_rate_holds_for_new_exchangeable_questions_on_average(memories: int, rate: float) -> None:
    rates = []
    for draw in range(30):
        gate, report = fit([memory(100 * draw + i, own=20) for i in range(memories)], rate)
        assert report.promise_supported
        rates.append(passing(gate, negatives(6, seed=5000 + draw)))
    # Three standard errors of the mean of thirty draws.
    assert np.mean(rates) <= rate + 3 * np.std(rates) / math.sqrt(len(rates))
    assert np.mean(rates) <= rate


def test_it_holds_where_own_questions_and_others_can_hardly_be_told_apart() -> None:
    rates = []
    for draw in range(30):
        bank = [
            [*samples("own", 10, 10 * draw + i, like="unrelated"), *samples("unrelated", 40, 10 * draw + i)]
            for i in range(2)
        ]
        gate, report = fit(bank, 0.1)
        assert report.promise_supported
        rates.append(passing(gate, samples("unrelated", 200, seed=9000 + draw)))
    assert np.mean(rates) <= 0.1


def test_the_threshold_falls_as_the_promised_rate_grows() -> None:
    bank = [memory(seed) for seed in range(4)]
    gates = [fit(bank, rate)[0] for rate in (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    thresholds = [gate.threshold for gate in gates]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[-1]


def test_the_report_says_what_was_promised_and_what_was_measured() -> None:
    gate, report = fit([memory(seed) for seed in range(4)], 0.05)
    assert report.promised_rate == 0.05
    assert report.promise_supported
    assert report.expected_rate is not None
    assert 0 < report.expected_rate <= 0.05
    assert report.threshold == gate.threshold
    assert set(report.false_activation) == set(report.auroc) == {"near_miss", "unrelated", "wrong_adapter"}
    assert report.auroc["unrelated"] >= report.auroc["near_miss"] > 0.9
    assert report.true_activation is not None
    assert report.true_activation > 0.8
    assert sum(one.questions for one in report.reliability) == sum(report.counts.values())


def test_a_score_is_the_probability_that_the_memory_answers() -> None:
    gate, _ = fit([memory(seed, own=20, near_miss=20, unrelated=0, wrong_adapter=0) for seed in range(80)], 0.05)
    own, near = samples("own", 4000, seed=501), samples("near_miss", 4000, seed=501)
    scored = [(gate.score(sample.features), sample.kind == "own") for sample in (*own, *near)]
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = [(score, yes) for score, yes in scored if low <= score < low + 0.2]
        if len(inside) >= 100:
            assert np.mean([yes for _, yes in inside]) == pytest.approx(np.mean([s for s, _ in inside]), abs=0.15)


def test_near_misses_teach_the_model_but_set_no_threshold() -> None:
    bank = [memory(seed) for seed in range(4)]
    hard = [[*own, *samples("near_miss", 20, seed, like="own")] for seed, own in enumerate(bank)]
    gate, report = fit(hard, 0.05)
    assert report.promise_supported
    assert report.false_activation["near_miss"] > 0.3
    assert passing(gate, samples("own", 200, seed=77)) > 0.8
    assert passing(gate, samples("unrelated", 200, seed=77)) < 0.05


def test_too_few_negatives_for_the_promise_are_admitted_and_none_of_them_passes() -> None:
    others = samples("unrelated", 10)
    gate, report = fit([[*samples("own", 20), *others]], 0.05)
    assert report.rule == "above_all"
    assert not report.promise_supported
    assert report.expected_rate is not None
    assert report.expected_rate > 0.05
    assert passing(gate, others) == 0
    assert passing(gate, samples("own", 100, seed=1)) > 0.5


def test_the_promise_wins_over_own_questions_that_look_like_others() -> None:
    _, report = fit([[*samples("own", 20), *samples("unrelated", 30), *samples("unrelated", 10, 1, like="own")]], 0.05)
    assert report.rule == "conformal"
    assert report.promise_supported
    assert report.true_activation is not None
    assert report.true_activation < 0.8


@pytest.mark.parametrize(
    "bank",
    [
        [],
        [[]],
        [samples("own", 3)],
        [samples("unrelated", 30)],
        [[*samples("own", 2), *samples("unrelated", 30)]],
        [[*samples("own", 10), *samples("near_miss", 3)]],
        # Held down by one odd negative of too few.
        [[*samples("own", 20), *samples("near_miss", 10, like="own")]],
    ],
)
def test_a_bank_with_too_few_samples_is_not_mute(bank: list[list[Sample]]) -> None:
    gate, report = fit(bank, 0.05)
    assert gate == PRIOR
    assert report.rule == "prior"
    assert not report.promise_supported
    assert passing(gate, samples("own", 200, seed=1)) > 0.8
    assert passing(gate, samples("near_miss", 200, seed=1)) < 0.15
    assert passing(gate, samples("unrelated", 200, seed=1)) < 0.02


def test_a_memory_without_held_out_questions_is_judged_by_the_banks_model() -> None:
    gate, report = fit([memory(1, own=20), memory(2, own=0), []], 0.05)
    assert report.rule == "conformal"
    assert report.counts["own"] == 20
    assert passing(gate, samples("own", 100, seed=5)) > 0.8


def test_a_memory_with_many_samples_counts_no_more_than_one_with_few() -> None:
    odd = [*samples("own", 400, 9, like="near_miss"), *samples("unrelated", 400, 9)]
    gate, _ = fit([odd, *(memory(seed) for seed in range(9))], 0.05)
    assert passing(gate, samples("own", 200, seed=77)) > 0.8


def test_weights_stay_on_the_side_that_their_meaning_allows() -> None:
    # Calibration data that claims the contrary: the better the match, the less the memory should speak.
    gate, _ = fit([[*samples("own", 20, like="unrelated"), *samples("unrelated", 90, like="own")]], 0.05)
    weight = dict(zip(FEATURES, gate.weight, strict=True))
    assert all(weight[name] >= 0 for name in ("dense", "lexical", "kl", "kl_first", "likelihood_gain"))
    assert weight["entropy_draft"] <= 0


def test_a_better_match_never_lowers_the_score() -> None:
    gate, _ = fit([memory(1), memory(2)], 0.05)
    features = list(samples("near_miss", 1)[0].features)
    scores = []
    for dense in np.linspace(0.0, 1.0, 50):
        features[FEATURES.index("dense")] = float(dense)
        scores.append(gate.score(features))
    assert scores == sorted(scores)


def test_a_feature_that_did_not_vary_can_not_decide_in_serving() -> None:
    margin = FEATURES.index("margin")

    def flat(asked: list[Sample], value: float) -> list[Sample]:
        return [Sample(s.kind, (*s.features[:margin], value, *s.features[margin + 1 :])) for s in asked]

    gate, _ = fit([[*flat(samples("own", 20), 1.0), *flat(samples("near_miss", 30), 1.001)]], 0.05)
    before, after = (gate.score(flat(samples("own", 1, seed=3), value)[0].features) for value in (1.0, 9.0))
    assert before == pytest.approx(after, abs=0.05)


def test_the_same_samples_give_the_same_gate() -> None:
    assert fit([memory(1), memory(2)], 0.05) == fit([memory(1), memory(2)], 0.05)


def test_samples_that_are_all_equal_give_no_better_than_chance_and_no_crash() -> None:
    one = samples("own", 1)[0].features
    _, report = fit([[*[Sample("own", one)] * 20, *[Sample("near_miss", one)] * 40]], 0.05)
    assert report.auroc["near_miss"] <= 0.5


@pytest.mark.parametrize("features", [(0.0,), (math.nan,) * len(FEATURES)])
def test_samples_that_lack_a_feature_are_refused(features: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="features"):
        fit([[Sample("own", features)] * 10], 0.05)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, math.nan])
def test_a_rate_that_can_not_be_promised_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        fit([memory(1)], rate)


def test_doubt_begins_where_the_promise_about_far_negatives_ends_and_lasts_to_the_threshold() -> None:
    gate, report = fit([memory(seed) for seed in range(4)], 0.05)
    assert report.promise_supported
    assert 0 < gate.doubt_from < gate.threshold
    far = [*samples("unrelated", 400, seed=9), *samples("wrong_adapter", 400, seed=9)]
    near = samples("near_miss", 400, seed=9)
    reached, doubted = (np.mean([gate.score(s.features) >= gate.doubt_from for s in group]) for group in (far, near))
    assert reached < 0.1
    assert doubted > 0.3


def test_the_prior_rules_out_where_it_is_as_sure_as_it_has_to_be_to_let_speak() -> None:
    gate, _ = fit([], 0.05)
    assert gate.doubt_from == 1 - gate.threshold
