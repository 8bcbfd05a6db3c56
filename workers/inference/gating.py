"""From judged candidates to who answers: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.gate.decision import Scored, choose, doubtful, mix
from workers.inference.question import Absent, Decision, Judged, Mode


def decide(judged: Sequence[Judged], mode: Mode, max_active: int = 1, absent: Sequence[Absent] = ()) -> Decision:
    """`auto`: the best candidates that reach their threshold; `force`: the best whatever they reach; `off`: none.

    At most `max_active` of them, together. `absent` can't be chosen; the decision only tells of them.
    """
    scored = [Scored(one.memory_id, one.score, 0.0 if mode == "force" else one.threshold) for one in judged]
    chosen = () if mode == "off" else choose(scored, max_active)
    by_id = {one.memory_id: one for one in judged}
    active = tuple(by_id[one.memory_id] for one in chosen)
    ordered = tuple(sorted(judged, key=lambda one: (-one.score, one.memory_id)))
    weights = mix([one.score for one in active]) if active else ()
    return Decision(active, weights, ordered, mode != "off" and not active, tuple(absent))


def in_doubt(decision: Decision, doubt_from: float) -> Judged | None:
    """The best candidate, where the gate abstained but does not rule it out."""
    if decision.active or not decision.abstained:
        return None
    judged = {one.memory_id: one for one in decision.candidates if not one.by_text}
    best = doubtful([Scored(one.memory_id, one.score, one.threshold) for one in judged.values()], doubt_from)
    return None if best is None else judged[best.memory_id]


def from_text(decision: Decision, text: Judged) -> Decision:
    """The base answers, with the text of a memory before the question."""
    return replace(decision, active=(), weights=(), abstained=False, text=text)
