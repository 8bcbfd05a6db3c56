from __future__ import annotations

import json
import math

import numpy as np
import pytest

from core.gate.calibration import auroc, calibrate
from core.gate.decision import GateModel
from core.gate.features import FEATURES

Vector = tuple[float, ...]
KINDS = {"own": (0.74, 0.9, 1.5), "near": (0.52, 0.45, 0.8), "everyday": (0.22, 0.05, 0.35)}


def questions(kind: str, count: int, seed: int = 0) -> list[Vector]:
    """Features as SmolLM2 and MiniLM give them; besides dense, lexical and KL they tell nothing."""
    draw = np.random.default_rng([seed, *kind.encode()])
    dense, lexical, kl = KINDS[kind]
    made: list[Vector] = []
    for _ in range(count):
        one_kl = draw.gamma(2.5, kl / 2.5)
        base, adapter, likelihood = draw.gamma(4, 0.5), draw.gamma(4, 0.4), -draw.gamma(2, 0.2)
        fields = {
            "dense": draw.normal(dense, 0.08),
            "lexical": float(np.clip(draw.normal(lexical, 0.15), 0, 1)),
            "entropy_base": base,
            "entropy_adapter": adapter,
            "kl_first": one_kl * draw.uniform(0.5, 1.5),
            "kl": one_kl,
            "entropy_draft": draw.gamma(3, 0.3),
            "margin": draw.gamma(4, 0.4),
            "likelihood_adapter": likelihood,
            "likelihood_base": likelihood - one_kl,
            "entropy_drop": base - adapter,
            "likelihood_gain": one_kl,
        }
        made.append(tuple(float(fields[name]) for name in FEATURES))
    return made


def passing(gate: GateModel, asked: list[Vector]) -> float:
    return sum(gate.score(features) >= gate.threshold for features in asked) / len(asked)


def test_a_gate_from_ten_positives_lets_new_ones_pass_and_keeps_others_out() -> None:
    gate, report = calibrate(questions("own", 10), questions("near", 20) + questions("everyday", 20))
    assert report["auroc"] > 0.95
    assert passing(gate, questions("own", 200, seed=1)) > 0.7
    assert passing(gate, questions("near", 200, seed=1)) < 0.15
    assert passing(gate, questions("everyday", 200, seed=1)) < 0.02


def test_the_promised_rate_holds_for_new_questions_on_average() -> None:
    rates = []
    for seed in range(5):
        gate, _ = calibrate(questions("own", 12, seed), questions("near", 40, seed), promised_false_activation=0.1)
        rates.append(passing(gate, questions("near", 300, seed=1000 + seed)))
    assert sum(rates) / len(rates) < 0.12


def test_the_report_says_what_was_promised_and_what_was_measured() -> None:
    gate, report = calibrate(questions("own", 10), questions("near", 30))
    assert report["positives"] == 10
    assert report["negatives"] == 30
    assert report["promised_false_activation"] == 0.05
    assert report["false_activation"] <= report["expected_false_activation"] <= 0.05
    assert report["true_activation"] >= 0.5
    assert report["rule"] == "conformal"
    assert report["promise_kept"] is True
    assert GateModel.from_json(json.loads(json.dumps(gate.to_json() | {"report": report}))) == gate


def test_too_few_negatives_for_the_promise_are_admitted() -> None:
    _, report = calibrate(questions("own", 10), questions("everyday", 10))
    assert report["promise_kept"] is False
    assert report["expected_false_activation"] > 0.05


def test_a_threshold_that_most_positives_would_fail_is_lowered_and_admitted() -> None:
    hidden = questions("own", 10, seed=1)
    gate, report = calibrate(questions("own", 10), questions("near", 30) + hidden)
    assert report["rule"] == "capped"
    assert report["promise_kept"] is False
    assert report["true_activation"] >= 0.5
    assert passing(gate, questions("own", 200, seed=2)) > 0.3


def test_weights_stay_on_the_side_that_their_meaning_allows() -> None:
    # Calibration data that claims the contrary: the better the match, the less the memory should speak.
    gate, _ = calibrate(questions("everyday", 20), questions("own", 30))
    weight = dict(zip(FEATURES, gate.weight, strict=True))
    assert all(weight[name] >= 0 for name in ("dense", "lexical", "kl", "kl_first", "likelihood_gain"))
    assert weight["entropy_draft"] <= 0


def test_a_better_match_never_lowers_the_score() -> None:
    gate, _ = calibrate(questions("own", 10), questions("near", 30))
    features = list(questions("near", 1)[0])
    scores = []
    for dense in (0.0, 0.3, 0.6, 0.9):
        features[FEATURES.index("dense")] = dense
        scores.append(gate.score(features))
    assert scores == sorted(scores)


def test_the_threshold_is_always_one_half_so_that_memories_compare() -> None:
    gates = [calibrate(questions("own", 10, s), questions("near", 20, s))[0] for s in (1, 2)]
    assert [gate.threshold for gate in gates] == [0.5, 0.5]


def test_a_feature_that_did_not_vary_can_not_decide_in_serving() -> None:
    margin = FEATURES.index("margin")

    def flat(asked: list[Vector], value: float) -> list[Vector]:
        return [(*one[:margin], value, *one[margin + 1 :]) for one in asked]

    gate, _ = calibrate(flat(questions("own", 10), 1.0), flat(questions("near", 30), 1.001))
    before, after = (gate.score(flat(questions("own", 1, seed=3), value)[0]) for value in (1.0, 9.0))
    assert before == pytest.approx(after, abs=0.05)


def test_the_same_questions_give_the_same_gate() -> None:
    first = calibrate(questions("own", 10), questions("near", 30))
    assert calibrate(questions("own", 10), questions("near", 30)) == first


@pytest.mark.parametrize(("own", "others"), [(1, 1), (1, 30), (2, 3), (10, 1)])
def test_a_handful_of_questions_still_gives_a_usable_gate(own: int, others: int) -> None:
    gate, report = calibrate(questions("own", own), questions("everyday", others))
    assert all(math.isfinite(value) for value in (*gate.mean, *gate.scale, *gate.weight, gate.bias))
    assert passing(gate, questions("own", 100, seed=1)) > 0.5
    assert passing(gate, questions("everyday", 100, seed=1)) < 0.2
    assert report["promise_kept"] is (others >= 19)


def test_identical_questions_on_both_sides_give_chance_and_no_crash() -> None:
    same = [questions("near", 1)[0]] * 10
    _, report = calibrate(same, same)
    assert report["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("positives", "negatives"),
    [
        ([], [(0.0,) * len(FEATURES)]),
        ([(0.0,) * len(FEATURES)], []),
        ([(0.0,)], [(0.0,)]),
        ([(math.nan,) * len(FEATURES)], [(0.0,) * len(FEATURES)]),
    ],
)
def test_what_no_gate_can_be_fitted_to_is_refused(positives: list[Vector], negatives: list[Vector]) -> None:
    with pytest.raises(ValueError, match="question"):
        calibrate(positives, negatives)


def test_auroc_counts_ties_half() -> None:
    assert auroc([2.0, 1.0], [1.0, 0.0]) == pytest.approx(0.875)
