"""Logistic regression for a gate: few questions, features whose meaning is known.

The two classes weigh alike. Weights are pulled towards a prior and kept on the side of zero where their meaning is
clear; with ten positives that matters more than the data: a gate must never learn that a better match speaks against a
memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.gate.decision import CLIP
from core.gate.features import FEATURES

Array = NDArray[np.float64]

# Least standard deviation of a feature: what varies less in calibration must not explode in serving. Then the prior
# weight, and the side on which the weight has to stay (0: either).
_SHAPE: dict[str, tuple[float, float, int]] = {
    "dense": (0.05, 0.6, +1),
    "lexical": (0.1, 0.2, +1),
    "matched": (0.05, 0.8, +1),
    "entropy_base": (0.3, 0.0, 0),
    "entropy_adapter": (0.3, 0.0, -1),
    "kl_first": (0.3, 0.1, +1),
    "kl": (0.3, 0.4, +1),
    "entropy_draft": (0.2, 0.0, -1),
    "margin": (0.2, 0.0, +1),
    "likelihood_adapter": (0.1, 0.0, +1),
    "likelihood_base": (0.3, 0.0, -1),
    "supported": (0.5, 0.0, 0),
    "unsupported": (0.5, -0.3, -1),
    "entropy_drop": (0.3, 0.0, +1),
    "likelihood_gain": (0.3, 0.2, +1),
}
_FLOOR, _PRIOR, _SIDE = (np.array([_SHAPE[name][i] for name in FEATURES], dtype=np.float64) for i in range(3))

PENALTY = 0.3
BIAS_PENALTY = 1e-4
TOLERANCE = 1e-5
MOST_TURNS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Logistic:
    """`mean`, `scale` and `weight` are `[features]`."""

    mean: Array
    scale: Array
    weight: Array
    bias: float

    def log_odds(self, features: Array) -> Array:
        """`[n]` for features `[n, features]`; as `GateModel.log_odds`, for many questions."""
        odds: Array = np.clip((features - self.mean) / self.scale, -CLIP, CLIP) @ self.weight + self.bias
        return odds


def fit_logistic(features: Array, labels: NDArray[np.bool_], share: Array, start: Logistic | None = None) -> Logistic:
    """Minimises log-loss, question i counted `share[i]` times, plus `PENALTY / 2 · |weight − prior|²`.

    Accelerated projected gradient (FISTA, Beck & Teboulle 2009) from `start`. Both classes need a sample; `share` is
    brought to one half for each class here.
    """
    share = np.where(labels, share / share[labels].sum(), share / share[~labels].sum()) / 2
    mean = share @ features
    scale = np.maximum(np.sqrt(share @ (features - mean) ** 2), _FLOOR)
    x = np.hstack([np.clip((features - mean) / scale, -CLIP, CLIP), np.ones((len(features), 1))])
    target = labels.astype(np.float64)
    penalty = np.append(np.full(len(FEATURES), PENALTY), BIAS_PENALTY)
    prior = np.append(_PRIOR, 0.0)
    step = 1.0 / (0.25 * np.linalg.eigvalsh(x.T @ (share[:, None] * x))[-1] + PENALTY)
    weights = ahead = prior if start is None else np.append(start.weight, start.bias)
    for turn in range(1, MOST_TURNS + 1):
        residual = share * (_sigmoid(x @ ahead) - target)
        moved = _on_side(ahead - step * (residual @ x + penalty * (ahead - prior)))
        change = moved - weights
        ahead, weights = moved + (turn - 1) / (turn + 2) * change, moved
        if np.abs(change).max() < TOLERANCE and turn > 10:
            break
    return Logistic(mean, scale, weights[:-1], float(weights[-1]))


def _on_side(weights: Array) -> Array:
    signed = weights[:-1]
    kept = np.where((_SIDE != 0) & (np.sign(signed) == -_SIDE), 0.0, signed)
    return np.append(kept, weights[-1])


def _sigmoid(x: Array) -> Array:
    result: Array = 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
    return result
