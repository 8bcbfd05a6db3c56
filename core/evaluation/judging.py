"""The gate, as the evaluation uses it: the only module here that knows how a gate is stored and scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from core.adapters.files import GATE_FILE
from core.errors import AdapterInvalid
from core.gate.calibration import auroc
from core.gate.decision import GateModel, Scored, choose
from core.gate.features import FEATURES, DraftSignals, RetrievalSignals, vector

__all__ = ["NAMES", "Gates", "Scored", "auroc", "choose", "entropy_of", "features_of"]

NAMES = FEATURES
"""The names of the features, in the order of `features_of`."""


class Gates:
    """The gates of a bank: one per memory, from its own files."""

    def __init__(self) -> None:
        self._models: dict[str, GateModel] = {}

    def add(self, memory_id: str, directory: Path) -> None:
        """Takes in the gate of a memory whose files are in `directory`. Raises `AdapterInvalid`."""
        try:
            self._models[memory_id] = GateModel.from_json(json.loads((directory / GATE_FILE).read_text()))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise AdapterInvalid(f"The gate can't be used: {problem!r:.200}") from problem

    def judge(self, memory_id: str, features: Sequence[float]) -> Scored:
        """What the gate says of a memory for a question with these `features`."""
        model = self._models[memory_id]
        return Scored(memory_id, model.score(features), model.threshold)


def features_of(retrieval: RetrievalSignals, draft: DraftSignals) -> tuple[float, ...]:
    """What the gate looks at for one memory and one question."""
    return vector(retrieval, draft)


def entropy_of(features: Sequence[float]) -> float:
    """The entropy of the adapter's first token, in nats, the paper's gate (arXiv:2605.28889)."""
    return features[NAMES.index("entropy_adapter")]
