"""The gate of a bank that has too few samples for one of its own: what gates of other banks had in common.

Fitted once to invented samples whose features lie where SmolLM2-135M and MiniLM put them (own questions at a cosine of
0.74, near misses at 0.52, everyday ones at 0.22), then rounded. It promises no rate.
"""

from __future__ import annotations

from core.gate.decision import GateModel
from core.gate.features import FEATURES

# Mean, scale, weight.
_SHAPE: dict[str, tuple[float, float, float]] = {
    "dense": (0.54, 0.23, 1.2),
    "lexical": (0.55, 0.37, 0.7),
    "matched": (0.5, 0.2, 1.2),
    "entropy_base": (2.0, 1.0, 0.0),
    "entropy_adapter": (1.6, 0.8, 0.0),
    "kl_first": (1.0, 1.0, 0.2),
    "kl": (1.0, 0.9, 0.5),
    "entropy_draft": (0.9, 0.5, 0.0),
    "margin": (1.6, 0.8, 0.0),
    "likelihood_adapter": (-0.4, 0.3, 0.0),
    "likelihood_base": (-1.4, 0.9, 0.0),
    "supported": (1.0, 1.0, 0.0),
    "unsupported": (1.0, 1.2, -0.6),
    "entropy_drop": (0.4, 1.3, 0.0),
    "likelihood_gain": (1.0, 0.9, 0.3),
}
_MEAN, _SCALE, _WEIGHT = (tuple(_SHAPE[name][i] for name in FEATURES) for i in range(3))

_THRESHOLD = 0.6

PRIOR = GateModel(_MEAN, _SCALE, _WEIGHT, bias=-0.4, threshold=_THRESHOLD, doubt_from=1.0 - _THRESHOLD)
"""It rules a memory out where it is as sure of that as it has to be of the opposite to let it speak."""
