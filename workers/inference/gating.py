"""From judged candidates to who answers: pure."""

from __future__ import annotations

from collections.abc import Sequence

from core.gate.decision import Scored, choose, mix
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
