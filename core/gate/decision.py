"""The gate's decision: pure, and the same in calibration and in serving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.gate.features import FEATURES


@dataclass(frozen=True, slots=True)
class GateModel:
    """A logistic model over standardised features, and the threshold its score has to reach.

    `score = sigmoid(bias + Σ weight · clip((feature − mean) / scale, −4, 4))`, in 0 to 1.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float
    threshold: float

    def score(self, features: Sequence[float]) -> float:
        total = self.bias
        for value, mean, scale, weight in zip(features, self.mean, self.scale, self.weight, strict=True):
            total += weight * max(-4.0, min(4.0, (value - mean) / scale))
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))

    def to_json(self) -> dict[str, Any]:
        return {
            "features": list(FEATURES),
            "mean": list(self.mean),
            "scale": list(self.scale),
            "weight": list(self.weight),
            "bias": self.bias,
            "threshold": self.threshold,
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> GateModel:
        """Raises `ValueError` where the model was fitted on other features."""
        if tuple(fields["features"]) != FEATURES:
            raise ValueError("The gate was calibrated on other features than this version computes.")
        return GateModel(
            tuple(fields["mean"]),
            tuple(fields["scale"]),
            tuple(fields["weight"]),
            float(fields["bias"]),
            float(fields["threshold"]),
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """One candidate as the gate judged it."""

    memory_id: str
    score: float
    threshold: float

    @property
    def passes(self) -> bool:
        return self.score >= self.threshold


def choose(scored: Sequence[Scored], max_active: int = 1) -> tuple[Scored, ...]:
    """The candidates that may speak, best first; empty means abstain. Ties go to the lower memory id."""
    passing = [candidate for candidate in scored if candidate.passes]
    return tuple(sorted(passing, key=lambda c: (-c.score, c.memory_id))[:max_active])
