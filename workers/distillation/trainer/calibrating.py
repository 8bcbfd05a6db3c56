"""What a memory brings to the gate of its bank: drafts on questions that it answers and on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.decoding import prefill_shared
from core.engine.draft import draft
from core.gate.features import DRAFT_TOKENS, vector
from core.gate.samples import Kind, Sample
from core.retrieval.encoder import Encoder
from core.retrieval.index import MemoryIndex, retrieval_signals

BATCH = 24


def samples_of(
    base: LoadedBase,
    adapters: PackedAdapters,
    encoder: Encoder,
    index: MemoryIndex,
    questions: Mapping[Kind, Sequence[str]],
    *,
    slot: int,
) -> list[Sample]:
    """Drafts every question with the adapter in `slot`, beside the base, and keeps what the gate sees of it."""
    asked = [(kind, question) for kind, of_kind in questions.items() for question in of_kind]
    features = _features(base, adapters, encoder, index, [question for _, question in asked], slot)
    return [Sample(kind, row) for (kind, _), row in zip(asked, features, strict=True)]


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
