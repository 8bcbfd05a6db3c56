from __future__ import annotations

import pytest

from core.gate.baseline import entropy_gate
from core.gate.features import FEATURES
from core.gate.samples import Kind, Sample
from tests.unit.core.gate.examples import samples


def of_entropy(kind: Kind, entropy: float) -> Sample:
    return Sample(kind, tuple(entropy if name == "entropy_adapter" else 9.0 for name in FEATURES))


def test_the_entropy_gate_opens_below_the_entropy_that_separates_best() -> None:
    own = [of_entropy("own", entropy) for entropy in (0.1, 0.2, 0.3)]
    gate = entropy_gate([*own, of_entropy("unrelated", 0.5), of_entropy("near_miss", 2.0)])
    assert [gate.score(sample.features) >= gate.threshold for sample in own] == [True] * 3
    assert gate.score(of_entropy("own", 0.31).features) < gate.threshold


def test_it_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="questions"):
        entropy_gate(samples("own", 3))
