from __future__ import annotations

import pytest

from workers.inference.gating import decide
from workers.inference.question import Judged


def judged(name: str, score: float, threshold: float = 0.5) -> Judged:
    return Judged(f"mem_{name}", name, f"sha256:{name}", 0, 1.0, score, threshold)


A, B, C, LOW = judged("a", 0.9), judged("b", 0.6), judged("c", 0.72), judged("d", 0.2)


@pytest.mark.parametrize(("most", "active"), [(1, (A,)), (2, (A, C)), (3, (A, C, B))])
def test_those_that_pass_are_active_together_best_first(most: int, active: tuple[Judged, ...]) -> None:
    decision = decide([LOW, B, A, C], "auto", most)
    assert decision.active == active
    assert decision.served == A
    assert decision.candidates == (A, C, B, LOW)
    assert decision.weights[0] == 1.0
    assert decision.weights == tuple(one.score / A.score for one in active)


def test_where_none_passes_the_gate_abstains() -> None:
    decision = decide([LOW], "auto", 3)
    assert (decision.active, decision.weights, decision.served, decision.abstained) == ((), (), None, True)


def test_force_takes_the_best_whatever_they_reach_and_off_none() -> None:
    assert decide([LOW], "force").active == (LOW,)
    off = decide([A], "off", 3)
    assert (off.active, off.abstained) == ((), False)
