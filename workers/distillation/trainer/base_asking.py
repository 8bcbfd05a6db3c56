"""The base asks about facts: for each span of a sentence a question whose answer it is.

A model of this size asks poorly, so it may only use the words of the sentence and of the topic, and question words; and
it is only asked for what grammar can't ask.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from core.base_model.chat import Prompt
from core.base_model.loading import LoadedBase
from core.engine.decoding import Sampling, prefill_rests, shared_start, write
from core.settings import RecipeSettings
from workers.distillation.trainer.contexts import Context, Fact
from workers.distillation.trainer.pairs import Asked
from workers.distillation.trainer.questions import EXAMPLES, STEMS, clean_question, keeps_names, question_vocabulary
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.spans import Span, spans_of


def ask(
    base: LoadedBase, context: Context, facts: Collection[int], recipe: RecipeSettings, ranks: Ranks
) -> list[Asked]:
    """Questions for the spans of the facts with these numbers, started by stems that fit."""
    targets = [
        (i, span)
        for i, fact in enumerate(context.facts)
        if i in facts
        for span in spans_of(fact.text, context.title)[: recipe.spans_per_fact]
    ]
    if not targets:
        return []
    mine = ranks.share(list(enumerate(targets)))
    texts = _asked(base, context, mine, recipe) if mine else []
    return [
        Asked(question, fact, span.text)
        for (fact, span), raw in zip(targets, ranks.collect(texts), strict=True)
        for question in map(clean_question, raw)
        if question and keeps_names(question, f"{context.title} {context.text}")
    ]


def _asked(
    base: LoadedBase, context: Context, mine: Sequence[tuple[int, tuple[int, Span]]], recipe: RecipeSettings
) -> list[list[str]]:
    """What the base asks for each of these numbered spans, a question a stem, as it wrote them."""
    prompts = [_question_prompt(base, context, context.facts[i], span) for _, (i, span) in mine]
    # The header's last token is fed with the stem, so that a row without a stem has something to feed.
    beginnings = [[*prompt.prefix, *prompt.activation[:-1]] for prompt in prompts]
    pattern, rests = shared_start(base.model, beginnings, leave=1)
    prefixes = prefill_rests(base.model, pattern, rests)
    stems = [STEMS[span.kind][: recipe.stems_per_span] for _, (_, span) in mine]
    numbers = tuple(number * 100 + k for (number, _), row in zip(mine, stems, strict=True) for k in range(len(row)))
    feeds = [[p.activation[-1], *base.chat.encode(stem)] for p, row in zip(prompts, stems, strict=True) for stem in row]
    written = iter(
        write(
            base.model,
            [prefix for prefix, row in zip(prefixes, stems, strict=True) for _ in row],
            feeds,
            limit=recipe.question_tokens,
            end_tokens=base.end_tokens,
            shared=pattern,
            sampling=Sampling(recipe.seed, recipe.question_temperature, rows=numbers),
            allowed=[
                tokens
                for tokens, row in zip(_question_tokens(base, context, [t for _, t in mine]), stems, strict=True)
                for _ in row
            ],
        )
        if feeds
        else ()
    )
    return [[stem + base.chat.decode(next(written).tokens) for stem in row] for row in stems]


def _question_tokens(base: LoadedBase, context: Context, targets: Sequence[tuple[int, Span]]) -> list[Tensor]:
    """For each target the tokens that its question may consist of: the base is too small to be left to itself."""
    tokens = []
    for i, span in targets:
        words = question_vocabulary(context.facts[i].text, context.topic, span.text)
        forms = [form for word in words for form in (f" {word}", word[0].upper() + word[1:])]
        ids = {token for form in dict.fromkeys(forms) for token in base.chat.encode(form)}
        ids.update(base.chat.encode("?"), base.chat.encode("'s"), base.end_tokens)
        tokens.append(torch.tensor(sorted(ids)))
    return tokens


def _question_prompt(base: LoadedBase, context: Context, fact: Fact, span: Span) -> Prompt:
    messages: list[dict[str, str]] = []
    for title, sentence, target, question in EXAMPLES:
        messages.append({"role": "user", "content": _instruction(title, sentence, target)})
        messages.append({"role": "assistant", "content": question})
    messages.append({"role": "user", "content": _instruction(context.topic, fact.text, span.text)})
    return base.chat.prompt(messages)


def _instruction(title: str, sentence: str, target: str) -> str:
    return f"Subject: {title}\nFact: {sentence}\nAnswer: {target}\nWrite the question that has this answer."
