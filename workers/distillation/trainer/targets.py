"""What training compares the student to, computed once: question KV by the base, answers with their distributions.

Where the lower layers carry no adapter, what they make of the answer's tokens is a constant too, and is kept as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.base_model.loading import LoadedBase
from core.engine.decoding import Soft, batches, prefill_shared, write
from core.engine.kv import PrefixKv
from core.engine.partial import only_layers
from core.engine.rows import Rows
from core.settings import RecipeSettings
from workers.distillation.trainer.pairs import Pair
from workers.distillation.trainer.ranks import Ranks


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A question's KV, by the base without any adapter; the tokens fed after it; a target for the last of those.

    `feed` is the activation tokens and the answer without its last token; its last `len(soft)` positions have targets.
    `hidden` `[len(feed), hidden]` is what `feed` has become before the first adapted layer, `None` where that is the
    first of all; `prefix` has the layers from there on.
    """

    prefix: PrefixKv
    feed: tuple[int, ...]
    soft: Soft
    hidden: Tensor | None = None
    weights: tuple[float, ...] = ()
    """What each target counts, 1 on average; empty: all alike."""


def lessons(base: LoadedBase, pairs: Sequence[Pair], first_layer: int = 0) -> list[Lesson]:
    """Each pair as the student will see it: without the context. KV is computed here, not at every step."""
    prompts = [base.chat.ask(pair.question) for pair in pairs]
    prefixes = prefill_shared(base.model, [prompt.prefix for prompt in prompts])
    feeds = [(*prompt.activation, *pair.answer[:-1]) for prompt, pair in zip(prompts, pairs, strict=True)]
    made = _from_layer(base.model, prefixes, feeds, [pair.soft for pair in pairs], first_layer)
    return [replace(lesson, weights=pair.weights) for lesson, pair in zip(made, pairs, strict=True)]


def base_lessons(
    base: LoadedBase, questions: Sequence[str], recipe: RecipeSettings, ranks: Ranks, first_layer: int = 0
) -> list[Lesson]:
    """The base's own answers to questions that the adapter must leave alone."""
    if not questions:
        return []
    prompts = [base.chat.ask(question) for question in questions]
    prefixes = prefill_shared(base.model, [prompt.prefix for prompt in prompts])
    mine = ranks.share(range(len(prompts)))
    written = write(
        base.model,
        [prefixes[i] for i in mine],
        [prompts[i].activation for i in mine],
        limit=recipe.off_topic_tokens,
        end_tokens=base.end_tokens,
        keep_top=recipe.teacher_top_k,
    )
    answers = ranks.collect([(row.tokens, row.soft) for row in written])
    kept = [
        (prefix, (*prompt.activation, *tokens[: len(soft) - 1]), soft)
        for prompt, prefix, (tokens, soft) in zip(prompts, prefixes, answers, strict=True)
        if soft is not None
    ]
    return _from_layer(
        base.model, [p for p, _, _ in kept], [f for _, f, _ in kept], [s for _, _, s in kept], first_layer
    )


@torch.no_grad()
def _from_layer(
    model: Any,
    prefixes: Sequence[PrefixKv],
    feeds: Sequence[tuple[int, ...]],
    softs: Sequence[Soft],
    first_layer: int,
) -> list[Lesson]:
    if first_layer == 0:
        return [Lesson(*parts) for parts in zip(prefixes, feeds, softs, strict=True)]
    hidden: list[Tensor | None] = [None] * len(feeds)
    order = sorted(range(len(feeds)), key=lambda i: len(feeds[i]))
    with only_layers(model, 0, first_layer):
        for batch in batches(order, [len(p) + len(f) for p, f in zip(prefixes, feeds, strict=True)]):
            rows = Rows(model, [prefixes[i] for i in batch], room=max(len(feeds[i]) for i in batch))
            states = rows.feed_decoder([feeds[i] for i in batch])
            for i, row in zip(batch, states, strict=True):
                hidden[i] = row[len(row) - len(feeds[i]) :].clone()
    return [
        Lesson(prefix.layers_from(first_layer), feed, soft, states)
        for prefix, feed, soft, states in zip(prefixes, feeds, softs, hidden, strict=True)
    ]
