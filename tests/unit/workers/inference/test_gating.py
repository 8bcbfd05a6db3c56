from __future__ import annotations

from dataclasses import replace

import pytest

from workers.inference.gating import decide, from_text, in_doubt
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


def test_doubt_is_about_the_best_that_was_judged_where_the_gate_abstains() -> None:
    text = replace(judged("e", 0.95), by_text=True)
    abstained = decide([LOW, judged("f", 0.4)], "auto")
    abstained = replace(abstained, candidates=(text, *abstained.candidates))
    assert in_doubt(abstained, 0.3) == judged("f", 0.4)
    assert in_doubt(abstained, 0.41) is None
    assert in_doubt(decide([A, LOW], "auto"), 0.0) is None
    assert in_doubt(decide([LOW], "off"), 0.0) is None
    assert in_doubt(decide([], "auto"), 0.0) is None


def test_from_a_text_the_base_answers_and_nobody_else_is_active() -> None:
    text = replace(judged("e", 0.95), by_text=True)
    decision = from_text(decide([LOW], "auto"), text)
    assert (decision.text, decision.active, decision.weights, decision.abstained) == (text, (), (), False)
    assert (decision.served, decision.candidates) == (None, (LOW,))
