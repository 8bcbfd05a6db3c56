"""The gate, as the evaluation uses it: the only module here that knows how a gate comes about and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from core.evaluation.answering import Draft
from core.gate.calibration import Report, fit
from core.gate.decision import GateModel, Scored, choose, mix
from core.gate.features import FEATURES, vector
from core.gate.grounding import grounding
from core.gate.reliability import auroc
from core.gate.samples import Sample, load_samples
from core.retrieval.index import Encode, MemoryIndex, retrieval_signals

__all__ = ["NAMES", "Gates", "Scored", "auroc", "choose", "entropy_of", "features_of", "mix"]

NAMES = FEATURES
"""The names of the features, in the order of `features_of`."""


class Gates:
    """The gate of a bank: one model, fitted to the samples of all its memories for a promised rate."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._samples: list[tuple[Sample, ...]] = []
        self._fitted: tuple[GateModel, Report] | None = None

    def add(self, directory: Path) -> None:
        """Takes in a memory whose files are in `directory`. Raises `AdapterInvalid`."""
        self._samples.append(load_samples(directory))
        self._fitted = None

    def judge(self, memory_id: str, features: Sequence[float]) -> Scored:
        """What the gate says of a memory for a question with these `features`."""
        model, _ = self.fitted
        return Scored(memory_id, model.score(features), model.threshold)

    @property
    def fitted(self) -> tuple[GateModel, Report]:
        if self._fitted is None:
            self._fitted = fit(self._samples, self._rate)
        return self._fitted


def features_of(
    question: str, embedding: Tensor, draft: Draft, index: MemoryIndex, encode: Encode
) -> tuple[float, ...]:
    """What the gate looks at for one memory and one question, whose `embedding` is `[d]`."""
    grounded = grounding(question, draft.text, index.vocabulary, ended=draft.ended)
    return vector(retrieval_signals(question, embedding, index, encode), draft.signals, grounded)


def entropy_of(features: Sequence[float]) -> float:
    """The entropy of the adapter's first token, in nats, the paper's gate (arXiv:2605.28889)."""
    return features[NAMES.index("entropy_adapter")]
