"""Self-study: the base asks itself about every fact of a context, and answers with the context in view.

A question is asked for a span of a sentence, so that numbers and names are all asked for. The teacher's answer, with
its distributions as targets, is kept where it holds that span; where the teacher misses it, the sentence itself is the
answer, up to the end of the clause with the span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from core.base_model.chat import Prompt
from core.base_model.loading import LoadedBase
from core.engine.decoding import Sampling, Soft, Written, hard_of, prefill_rests, shared_start, write
from core.engine.kv import PrefixKv
from core.settings import RecipeSettings
from workers.distillation.trainer.contexts import Context, Fact
from workers.distillation.trainer.questions import (
    EXAMPLES,
    RESTATEMENTS,
    STEMS,
    clean_question,
    content_words,
    distinct,
    grounded,
    keeps_names,
    question_vocabulary,
)
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.spans import Span, gap_question, spans_of, up_to
from workers.distillation.trainer.statements import statements_of


@dataclass(frozen=True, slots=True)
class Asked:
    """A question whose answer is `span` of the fact with number `fact`."""

    question: str
    fact: int
    span: str
    stated: bool = False
    """Whether the sentence's own grammar gave the question, so that the sentence surely answers it."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A question, its answer's tokens (with the end token), and the target of every one of them.

    `taught` says whether the teacher wrote the answer; `sure` is its mean log-probability; `stated` as of `Asked`.
    """

    question: str
    answer: tuple[int, ...]
    soft: Soft
    fact: int
    taught: bool
    sure: float
    stated: bool = False
    gap: bool = False
    """Whether it is a sentence with a gap, or a request to tell everything: no question that a user would ask."""

    @property
    def sound(self) -> bool:
        """Whether question and answer surely belong together."""
        return self.taught or self.stated


@dataclass(frozen=True, slots=True)
class Study:
    """`learn` is for training, `held_out` for early stopping and calibration; they share no near-duplicates."""

    learn: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    asked: int
    taught: int
    coverage: float
    """Share of the facts with at least one question that a user could ask."""


Passed = Callable[[str], None]


def study(base: LoadedBase, context: Context, recipe: RecipeSettings, ranks: Ranks, passed: Passed) -> Study:
    """Question, answer and choose; after each pass `passed` is told what was done, and may raise to stop."""
    asked = ask(base, context, recipe, ranks)
    passed(f"{len(asked)} questions asked")
    pairs = answer(base, context, asked, recipe, ranks)
    passed(f"{len(pairs)} questions answered")
    learn, held_out = choose(pairs, recipe, len(context.facts))
    covered = {pair.fact for pair in learn}
    learn = [*learn, *gaps(base, context, recipe), *restatements(base, context)]
    taught = sum(pair.taught for pair in pairs)
    return Study(tuple(learn), tuple(held_out), len(asked), taught, round(len(covered) / len(context.facts), 4))


def ask(base: LoadedBase, context: Context, recipe: RecipeSettings, ranks: Ranks) -> list[Asked]:
    """Questions for the spans of every fact, started by stems that fit, without near-duplicates."""
    targets = [
        (i, span)
        for i, fact in enumerate(context.facts)
        for span in spans_of(fact.text, context.title)[: recipe.spans_per_fact]
    ]
    mine = ranks.share(list(enumerate(targets)))
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
    texts = [[stem + base.chat.decode(next(written).tokens) for stem in row] for row in stems]
    stated = [
        Asked(statement.question, i, statement.span, stated=True)
        for i, fact in enumerate(context.facts)
        for statement in statements_of(fact.text, context.title)
    ]
    found = [
        Asked(question, fact, span.text)
        for (fact, span), raw in zip(targets, ranks.collect(texts), strict=True)
        for question in map(clean_question, raw)
        if question and keeps_names(question, f"{context.title} {context.text}")
    ]
    asked = [*stated, *found]
    return [asked[i] for i in distinct([item.question for item in asked])]


def answer(
    base: LoadedBase, context: Context, asked: Sequence[Asked], recipe: RecipeSettings, ranks: Ranks
) -> list[Pair]:
    """The teacher's greedy answers with the context in view, or the sentence where they miss the span."""
    mine = ranks.share(asked)
    pairs: list[Pair | None] = [None] * len(mine)
    for window, text in enumerate(context.windows):
        here = [i for i, item in enumerate(mine) if context.facts[item.fact].window == window]
        prompts = [teacher_prompt(base, text, mine[i].question) for i in here]
        for i, row in zip(here, _answers(base, prompts, recipe), strict=True):
            pairs[i] = _pair(base, context, mine[i], row)
    return [pair for pair in ranks.collect(pairs) if pair is not None]


def choose(pairs: Sequence[Pair], recipe: RecipeSettings, facts: int) -> tuple[list[Pair], list[Pair]]:
    """What to learn, spread over the facts, sound pairs first; and what is held out.

    Only sound pairs are held out, one a fact, and only of facts that keep another: the gate is judged by them.
    """
    by_fact: list[list[Pair]] = [[] for _ in range(facts)]
    for pair in sorted(pairs, key=lambda p: (not p.sound, -p.sure)):
        by_fact[pair.fact].append(pair)
    wanted = min(recipe.held_out_pairs, len(pairs) // 4)
    held: list[Pair] = []
    for least in (3, 2):
        for own in by_fact:
            sound = [pair for pair in own if pair.sound]
            if len(held) < wanted and len(sound) >= least:
                held.append(sound[-1])
                own.remove(sound[-1])
    spread = [pair for turn in zip_longest(*by_fact) for pair in turn if pair is not None]
    limit = min(recipe.max_pairs, max(16, recipe.pairs_per_fact * facts))
    return spread[:limit], held


def gaps(base: LoadedBase, context: Context, recipe: RecipeSettings) -> list[Pair]:
    """Every span asked for by its own sentence, so that none depends on the base's skill at asking."""
    pairs = []
    for i, fact in enumerate(context.facts):
        for span in spans_of(fact.text, context.title)[: recipe.gaps_per_fact]:
            question = gap_question(fact.text, span, context.title)
            if question is not None:
                tokens = (*base.chat.encode(up_to(fact.text, span.text)), end_token(base))
                pairs.append(Pair(question, tokens, hard_of(tokens), i, False, 0.0, gap=True))
    return pairs


def restatements(base: LoadedBase, context: Context) -> list[Pair]:
    """ "Tell me about …", answered by each sentence, word for word."""
    pairs = []
    for i, fact in enumerate(context.facts):
        tokens = (*base.chat.encode(fact.text), end_token(base))
        form = RESTATEMENTS[i % len(RESTATEMENTS)]
        pairs.append(Pair(form.format(title=context.title), tokens, hard_of(tokens), i, False, 0.0, gap=True))
    return pairs


def teacher_prompt(base: LoadedBase, text: str, question: str) -> Prompt:
    return base.chat.ask_about(text, question)


def end_token(base: LoadedBase) -> int:
    """The token that ends an answer: the tokenizer's, where a model has several."""
    own: int | None = base.chat.tokenizer.eos_token_id
    return min(base.end_tokens) if own is None else own


def _question_tokens(base: LoadedBase, context: Context, targets: Sequence[tuple[int, Span]]) -> list[Tensor]:
    """For each target the tokens that its question may consist of: the base is too small to be left to itself."""
    tokens = []
    for i, span in targets:
        words = question_vocabulary(context.facts[i].text, context.title, span.text)
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
    messages.append({"role": "user", "content": _instruction(context.title, fact.text, span.text)})
    return base.chat.prompt(messages)


def _instruction(title: str, sentence: str, target: str) -> str:
    return f"Subject: {title}\nFact: {sentence}\nAnswer: {target}\nWrite the question that has this answer."


def _answers(base: LoadedBase, prompts: Sequence[Prompt], recipe: RecipeSettings) -> list[Written]:
    if not prompts:
        return []
    activation = prompts[0].activation
    text, rests = shared_start(base.model, [prompt.prefix for prompt in prompts], leave=0)
    return write(
        base.model,
        [PrefixKv.empty(base.model)] * len(prompts),
        [[*rest, *activation] for rest in rests],
        shared=text,
        limit=recipe.answer_tokens,
        end_tokens=base.end_tokens,
        keep_top=recipe.teacher_top_k,
    )


def _pair(base: LoadedBase, context: Context, item: Asked, row: Written) -> Pair | None:
    """The teacher's answer if it is right, else the sentence if the question is about it at all."""
    fact = context.facts[item.fact].text
    text = base.chat.decode(row.tokens)
    holds_span = content_words(item.span) <= content_words(text)
    if row.soft is not None and holds_span and grounded(item.question, text, context.text):
        tokens = (*row.tokens, end_token(base)) if row.ended else tuple(row.tokens)
        return Pair(item.question, tokens, row.soft, item.fact, True, row.likelihood, item.stated)
    asked_about = (content_words(item.question) & content_words(fact)) - content_words(context.title)
    if not asked_about and not item.stated:
        return None
    tokens = (*base.chat.encode(up_to(fact, item.span)), end_token(base))
    return Pair(item.question, tokens, hard_of(tokens), item.fact, False, row.likelihood, item.stated)
