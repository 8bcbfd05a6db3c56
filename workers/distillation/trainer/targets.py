"""What training compares the student to, computed once: question KV by the base, answers with their distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.base_model.loading import LoadedBase
from core.engine.decoding import Soft, prefill_shared, write
from core.engine.kv import PrefixKv
from core.settings import RecipeSettings
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.self_study import Pair


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A question's KV, by the base without any adapter; the tokens fed after it; a target for the last of those.

    `feed` is the activation tokens and the answer without its last token; its last `len(soft)` positions have targets.
    """

    prefix: PrefixKv
    feed: tuple[int, ...]
    soft: Soft


def lessons(base: LoadedBase, pairs: Sequence[Pair]) -> list[Lesson]:
    """Each pair as the student will see it: without the context. KV is computed here, not at every step."""
    prompts = [base.chat.ask(pair.question) for pair in pairs]
    prefixes = prefill_shared(base.model, [prompt.prefix for prompt in prompts])
    return [
        Lesson(prefix, (*prompt.activation, *pair.answer[:-1]), pair.soft)
        for prompt, prefix, pair in zip(prompts, prefixes, pairs, strict=True)
    ]


def base_lessons(base: LoadedBase, questions: Sequence[str], recipe: RecipeSettings, ranks: Ranks) -> list[Lesson]:
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
    return [
        Lesson(prefix, (*prompt.activation, *tokens[: len(soft) - 1]), soft)
        for prompt, prefix, (tokens, soft) in zip(prompts, prefixes, answers, strict=True)
        if soft is not None
    ]
