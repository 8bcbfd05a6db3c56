"""The gate of one memory: fitted to its drafts on questions that it answers and on questions that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.decoding import prefill_shared
from core.engine.draft import draft
from core.gate.calibration import calibrate
from core.gate.decision import GateModel
from core.gate.features import DRAFT_TOKENS, vector
from core.retrieval.encoder import Encoder
from core.retrieval.index import MemoryIndex, retrieval_signals
from core.settings import RecipeSettings

BATCH = 24


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate and the report of its calibration."""

    model: GateModel
    report: dict[str, Any]


def calibrate_gate(
    base: LoadedBase,
    adapters: PackedAdapters,
    encoder: Encoder,
    index: MemoryIndex,
    positives: Sequence[str],
    negatives: Sequence[str],
    recipe: RecipeSettings,
    *,
    slot: int,
) -> Gate:
    """Drafts every question with the adapter in `slot`, beside the base, and fits the gate to what it sees."""
    features = _features(base, adapters, encoder, index, [*positives, *negatives], slot)
    model, report = calibrate(
        features[: len(positives)],
        features[len(positives) :],
        promised_false_activation=recipe.false_activation,
    )
    return Gate(model, report)


@torch.no_grad()
def _features(
    base: LoadedBase,
    adapters: PackedAdapters,
    encoder: Encoder,
    index: MemoryIndex,
    questions: Sequence[str],
    slot: int,
) -> list[tuple[float, ...]]:
    prompts = [base.chat.ask(question) for question in questions]
    prefixes = prefill_shared(base.model, [prompt.prefix for prompt in prompts])
    embeddings = encoder.encode(list(questions))
    features: list[tuple[float, ...]] = []
    for start in range(0, len(questions), BATCH):
        part = prefixes[start : start + BATCH]
        drafts = draft(
            base.model,
            adapters,
            part,
            prompts[0].activation,
            [slot] * len(part),
            length=DRAFT_TOKENS,
            end_tokens=base.end_tokens,
        )
        for i, signals in enumerate(drafts.signals, start):
            features.append(vector(retrieval_signals(questions[i], embeddings[i], index), signals))
    return features
