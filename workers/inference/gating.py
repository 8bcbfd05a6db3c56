"""From judged candidates to who answers: pure."""

from __future__ import annotations

from collections.abc import Sequence

from core.gate.decision import Scored, choose
from workers.inference.question import Decision, Judged, Mode


def decide(judged: Sequence[Judged], mode: Mode) -> Decision:
    """`auto`: the best candidate that reaches its threshold; `force`: the best; `off`: none."""
    scored = [Scored(one.memory_id, one.score, 0.0 if mode == "force" else one.threshold) for one in judged]
    chosen = () if mode == "off" else choose(scored)
    by_id = {one.memory_id: one for one in judged}
    served = by_id[chosen[0].memory_id] if chosen else None
    ordered = tuple(sorted(judged, key=lambda one: (-one.score, one.memory_id)))
    return Decision(served, ordered, abstained=mode != "off" and served is None)
