"""Samples as SmolLM2 and MiniLM give them; besides dense, lexical and KL they tell nothing."""

from __future__ import annotations

import numpy as np

from core.gate.features import FEATURES
from core.gate.samples import Kind, Sample

_CENTRES: dict[Kind, tuple[float, float, float]] = {
    "own": (0.74, 0.9, 1.5),
    "near_miss": (0.52, 0.45, 0.8),
    "unrelated": (0.22, 0.05, 0.35),
    "wrong_adapter": (0.3, 0.1, 0.5),
}


def samples(kind: Kind, count: int, seed: int = 0, like: Kind | None = None) -> list[Sample]:
    """`count` samples called `kind`, with the features of `like` where that is given."""
    draw, words = (np.random.default_rng([seed, *kind.encode(), *more]) for more in ((), (1,)))
    dense, lexical, kl = _CENTRES[like or kind]
    made = []
    for _ in range(count):
        one_kl = draw.gamma(2.5, kl / 2.5)
        base, adapter, likelihood = draw.gamma(4, 0.5), draw.gamma(4, 0.4), -draw.gamma(2, 0.2)
        fields = {
            "dense": draw.normal(dense, 0.08),
            "lexical": float(np.clip(draw.normal(lexical, 0.15), 0, 1)),
            "matched": draw.normal(dense, 0.1),
            "entropy_base": base,
            "entropy_adapter": adapter,
            "kl_first": one_kl * draw.uniform(0.5, 1.5),
            "kl": one_kl,
            "entropy_draft": draw.gamma(3, 0.3),
            "margin": draw.gamma(4, 0.4),
            "likelihood_adapter": likelihood,
            "likelihood_base": likelihood - one_kl,
            "supported": words.poisson(1.0),
            "unsupported": words.poisson(1.0),
            "entropy_drop": base - adapter,
            "likelihood_gain": one_kl,
        }
        made.append(Sample(kind, tuple(float(fields[name]) for name in FEATURES)))
    return made


def memory(seed: int, own: int = 10, near_miss: int = 8, unrelated: int = 20, wrong_adapter: int = 6) -> list[Sample]:
    """All samples of one memory."""
    return [
        *samples("own", own, seed),
        *samples("near_miss", near_miss, seed),
        *samples("unrelated", unrelated, seed),
        *samples("wrong_adapter", wrong_adapter, seed),
    ]
