from __future__ import annotations

import numpy as np
import pytest

from core.evaluation.gate_figures import gate_figures, reliability, roc
from tests.unit.core.evaluation.examples import judgement

JUDGEMENTS = [
    judgement("1", "own", 0.9, entropy=0.1),
    judgement("2", "own", 0.6, entropy=2.0),
    judgement("1", "wrong", 0.2, document="b"),
    judgement("1", "unrelated", 0.3, document="c"),
    judgement("3", "near_miss", 0.7),
    judgement("4", "general", 0.1),
]


def test_each_auroc_sets_own_pairs_against_pairs_of_its_kinds() -> None:
    figures = gate_figures(JUDGEMENTS, seed=0)
    assert figures["gate.auroc_near_miss"].value == 0.5
    assert figures["gate.auroc_unrelated"].value == 1.0
    assert figures["gate.auroc_wrong_adapter"].value == 1.0
    assert figures["gate.auroc_unrelated"].n == 3


def test_the_entropy_baseline_prefers_a_sure_adapter() -> None:
    # Entropies of the others are 1.0: one own pair is surer than all of them, one less sure.
    assert gate_figures(JUDGEMENTS, seed=0)["gate.entropy_baseline_auroc"].value == 0.5


def test_balanced_accuracy_is_the_mean_of_true_activation_and_true_rejection() -> None:
    figures = gate_figures(JUDGEMENTS, seed=0)
    assert figures["gate.true_activation"].value == 1.0
    assert figures["gate.true_rejection"].value == 0.75
    assert figures["gate.balanced_accuracy"].value == 0.875


def test_a_kind_that_a_suite_does_not_have_gives_no_value() -> None:
    figures = gate_figures([one for one in JUDGEMENTS if one.pair.kind != "general"], seed=0)
    assert figures["gate.auroc_general"].value is None
    assert figures["gate.auroc_unrelated"].value == 1.0
    assert all(figure.value is None for figure in gate_figures([], seed=0).values())


def test_the_roc_rises_from_nothing_to_all() -> None:
    false, true = roc(JUDGEMENTS, ("near_miss",))
    assert false.tolist() == [0, 0, 1, 1]
    assert true.tolist() == [0, 0.5, 0.5, 1]
    assert (np.diff(true) >= 0).all()


def test_reliability_is_of_the_bins_that_hold_pairs() -> None:
    points = reliability([judgement("1", "own", 1.0), judgement("2", "own", 0.92), judgement("3", "wrong", 0.05)])
    assert [(pytest.approx(score), own, count) for score, own, count in points] == [(0.05, 0.0, 1), (0.96, 1.0, 2)]
