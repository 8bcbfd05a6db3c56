"""Whether a memory without an adapter answers a question: the gate's prior, by what retrieval alone says."""

from __future__ import annotations

from dataclasses import asdict

from core.gate.features import FEATURES, RetrievalSignals
from core.gate.prior import PRIOR

_PRIOR_MEANS = dict(zip(FEATURES, PRIOR.mean, strict=True))

RELEVANT = PRIOR.doubt_from
"""From this relevance on a text is put before the question: what the gate would not rule out. A wrong text costs less
than a wrong adapter, since the base reads it and may leave it aside."""


def relevance(signals: RetrievalSignals) -> float:
    """The prior's score, 0 to 1, of a candidate that has drafted nothing: what a draft would tell is at its mean."""
    known = _PRIOR_MEANS | asdict(signals)
    return PRIOR.score([known[name] for name in FEATURES])
