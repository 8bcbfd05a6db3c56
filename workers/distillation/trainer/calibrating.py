"""What a memory brings to the gate: drafts, with its finished adapter, on questions whose right decision is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from core.adapters.packed import PackedAdapters
from core.engine.draft import draft
from core.gate.features import DRAFT_TOKENS, vector
from core.gate.grounding import grounding
from core.gate.samples import Kind, Sample
from core.retrieval.index import MemoryIndex, retrieval_signals
from workers.distillation.trainer.contexts import Context
from workers.distillation.trainer.off_topic import about_strangers, everyday
from workers.distillation.trainer.pairs import Study
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.warm import Warm

BATCH = 24
LEAST_POSITIVES = 6
STRANGERS = 4
OF_OTHERS = 8


@dataclass(frozen=True, slots=True)
class Judged:
    """Questions for one memory's gate by kind, and the index that it is retrieved by."""

    index: MemoryIndex
    questions: Mapping[Kind, Sequence[str]]


def judged_questions(context: Context, study: Study, others: Sequence[str]) -> dict[Kind, tuple[str, ...]]:
    """Questions that this memory answers, held out where there are enough, and ones that it does not.

    A gate can't be fitted to one or two positives: up to `LEAST_POSITIVES` are then taken from what was learnt.
    `others` are of other memories. Its own questions about a stranger are near misses too.
    """
    learnt = sorted(study.learn, key=lambda pair: not pair.sound)
    lent = learnt[: max(0, LEAST_POSITIVES - len(study.held_out))]
    strangers = about_strangers([pair.question for pair in study.learn], context.topic)[:STRANGERS]
    return {
        "own": tuple(pair.question for pair in (*study.held_out, *lent)),
        "near_miss": (*study.near, *strangers),
        "unrelated": everyday(context.topic),
        "wrong_adapter": tuple(others[:OF_OTHERS]),
    }


@torch.no_grad()
def samples_of(
    warm: Warm,
    adapters: PackedAdapters,
    memories: Mapping[int, Judged],
    ranks: Ranks,
    check: Callable[[], object] | None = None,
) -> dict[int, tuple[Sample, ...]]:
    """Drafts every question with the adapter in its memory's slot, beside the base; samples by slot.

    `check` is called between batches, and may raise to stop.
    """
    asked: list[tuple[int, Kind, str]] = [
        (slot, kind, question)
        for slot, memory in memories.items()
        for kind, questions in memory.questions.items()
        for question in questions
    ]
    mine = ranks.share(asked)
    samples = ranks.collect(_drafted(warm, adapters, memories, mine, check) if mine else [])
    found: dict[int, list[Sample]] = {slot: [] for slot in memories}
    for (slot, _, _), sample in zip(asked, samples, strict=True):
        found[slot].append(sample)
    return {slot: tuple(own) for slot, own in found.items()}


def _drafted(
    warm: Warm,
    adapters: PackedAdapters,
    memories: Mapping[int, Judged],
    asked: Sequence[tuple[int, Kind, str]],
    check: Callable[[], object] | None,
) -> list[Sample]:
    texts = [question for _, _, question in asked]
    prefixes = warm.prefixes(texts)
    embeddings = warm.encoder.encode(texts)
    activation = warm.base.chat.ask("?").activation
    samples = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        if check is not None:
            check()
        drafts = draft(
            warm.base.model,
            adapters,
            prefixes[start : start + BATCH],
            activation,
            [slot for slot, _, _ in part],
            length=DRAFT_TOKENS,
            end_tokens=warm.base.end_tokens,
        )
        for i, (slot, kind, question) in enumerate(part):
            index = memories[slot].index
            retrieval = retrieval_signals(question, embeddings[start + i], index, warm.encoder.encode)
            text = warm.base.chat.decode(drafts.tokens[i])
            grounded = grounding(question, text, index.vocabulary, ended=drafts.ended[i])
            samples.append(Sample(kind, vector(retrieval, drafts.signals[i], grounded)))
    return samples
