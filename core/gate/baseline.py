"""The founding paper's gate (arXiv 2605.28889), to compare with: first-token entropy under one fixed threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.gate.decision import GateModel
from core.gate.features import FEATURES
from core.gate.samples import Sample

_ENTROPY = FEATURES.index("entropy_adapter")
_SCALE = 10.0
"""In nats; wider than any difference of entropies, so that the score ranks by entropy alone."""


def entropy_gate(samples: Sequence[Sample]) -> GateModel:
    """The gate that opens where the adapter's first token has an entropy of at most the threshold.

    The threshold is the one with the best balanced accuracy on `samples`, the lowest of equals. Raises `ValueError`
    where there are no own questions or no others.
    """
    entropy = np.array([sample.features[_ENTROPY] for sample in samples])
    own = np.array([sample.kind == "own" for sample in samples], dtype=np.bool_)
    if not own.any() or own.all():
        raise ValueError("The entropy gate needs questions that a memory answers, and others.")
    thresholds = np.unique(entropy)
    opened = entropy[None, :] <= thresholds[:, None]
    accuracy = (opened[:, own].mean(1) + (~opened[:, ~own]).mean(1)) / 2
    return _gate(float(thresholds[accuracy.argmax()]))


def _gate(threshold: float) -> GateModel:
    count = len(FEATURES)
    weight = tuple(-1.0 if at == _ENTROPY else 0.0 for at in range(count))
    return GateModel((threshold,) * count, (_SCALE,) * count, weight, 0.0, 0.5)
