"""Self-study: every fact of a context becomes questions with answers.

A sentence's own grammar asks for each of its parts, and answers with a statement that stands alone. Where it asks too
little (other languages, fragments, what the parser does not see through), the base model asks for spans of the
sentence, and answers with the context in view; where it misses the span, the sentence is the answer, up to the end of
the clause with the span.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.base_model.chat import Prompt
from core.base_model.loading import LoadedBase
from core.engine.decoding import Written, hard_of, shared_start, write
from core.engine.kv import PrefixKv
from core.retrieval.lexical import stem
from core.settings import RecipeSettings
from workers.distillation.trainer.base_asking import ask
from workers.distillation.trainer.contexts import Context
from workers.distillation.trainer.grammar.asking import stated_of
from workers.distillation.trainer.grammar.parser import is_english, load_parser
from workers.distillation.trainer.near_misses import near_misses
from workers.distillation.trainer.pairs import Asked, Pair, Study, choose
from workers.distillation.trainer.questions import RESTATEMENTS, content_words, distinct, grounded, words_of
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.rewording import Rewording, topic_words
from workers.distillation.trainer.spans import gap_question, spans_of, up_to

LEAST_STATED = 1
"""Questions that grammar has for a fact, or the base is asked for more."""

Passed = Callable[[str], None]


def study(
    base: LoadedBase, rewording: Rewording, context: Context, recipe: RecipeSettings, ranks: Ranks, passed: Passed
) -> Study:
    """Question, answer and choose; after each pass `passed` is told what was done, and may raise to stop."""
    stated = state(context, recipe)
    counted = Counter(item.fact for item in stated)
    few = {fact for fact in range(len(context.facts)) if counted[fact] < LEAST_STATED}
    asked = [*stated, *reword(rewording, context, stated, recipe), *ask(base, context, few, recipe, ranks)]
    asked = [asked[i] for i in distinct([item.question for item in asked])]
    passed(f"{len(asked)} questions asked")
    told = [_told(base, item, recipe) for item in asked if item.stated]
    answered = answer(base, context, [item for item in asked if not item.stated], recipe, ranks)
    pairs = [*told, *answered]
    passed(f"{len(pairs)} questions answered")
    learn, held_out = choose(pairs, recipe, len(context.facts), len(context.text.split()))
    learnt = Counter(pair.fact for pair in learn)
    learn = [*learn, *gaps(base, context, recipe, learn), *restatements(base, context)]
    near, taught = near_misses(context, stated, recipe), sum(pair.taught for pair in pairs)
    by_fact = tuple(learnt[fact] for fact in range(len(context.facts)))
    return Study(tuple(learn), tuple(held_out), near, len(asked), taught, by_fact)


def state(context: Context, recipe: RecipeSettings) -> list[Asked]:
    """What the grammar of each fact asks and answers; nothing where the text is not English."""
    if not recipe.parser or not is_english(context.text):
        return []
    found = stated_of([fact.text for fact in context.facts], context.topic, load_parser(recipe.parser))
    return [Asked(one.question, fact, one.span, one.answer) for fact, own in enumerate(found) for one in own]


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
            pairs[i] = _pair(base, context, mine[i], row, recipe)
    return [pair for pair in ranks.collect(pairs) if pair is not None]


def gaps(base: LoadedBase, context: Context, recipe: RecipeSettings, learn: Sequence[Pair]) -> list[Pair]:
    """Spans that no question asks for, asked for by their own sentence: plain, but right for every sentence."""
    pairs = []
    for i, fact in enumerate(context.facts):
        known = {word for pair in learn if pair.fact == i and pair.sound for word in content_words(pair.span)}
        spans = [span for span in spans_of(fact.text, context.topic) if not content_words(span.text) <= known]
        for span in spans[: recipe.gaps_per_fact]:
            question = gap_question(fact.text, span, context.topic)
            if question is not None:
                tokens, weights = weighted(base, up_to(fact.text, span.text), span.text, recipe.span_weight)
                pairs.append(Pair(question, tokens, hard_of(tokens), i, False, 0.0, weights=weights, gap=True))
    return pairs


def restatements(base: LoadedBase, context: Context) -> list[Pair]:
    """ "Tell me about …", answered by each sentence, word for word."""
    pairs = []
    for i, fact in enumerate(context.facts):
        tokens = (*base.chat.encode(fact.text), end_token(base))
        form = RESTATEMENTS[i % len(RESTATEMENTS)]
        pairs.append(Pair(form.format(title=context.topic), tokens, hard_of(tokens), i, False, 0.0, gap=True))
    return pairs


def teacher_prompt(base: LoadedBase, text: str, question: str) -> Prompt:
    return base.chat.ask_about(text, question)


def end_token(base: LoadedBase) -> int:
    """The token that ends an answer: the tokenizer's, where a model has several."""
    own: int | None = base.chat.tokenizer.eos_token_id
    return min(base.end_tokens) if own is None else own


def reword(rewording: Rewording, context: Context, stated: Sequence[Asked], recipe: RecipeSettings) -> list[Asked]:
    """A second form of each question, in other words."""
    if not recipe.reworded:
        return []
    chance, keep = random.Random(recipe.seed), topic_words(context.topic)  # nosec B311
    told = frozenset(map(stem, words_of(f"{context.title} {context.text}")))
    made = [(item, rewording.reworded(item.question, keep, told, chance)) for item in stated]
    return [replace(item, question=question, reworded=True) for item, question in made if question is not None]


def _told(base: LoadedBase, item: Asked, recipe: RecipeSettings) -> Pair:
    """A question with the statement that grammar made for it."""
    tokens, weights = weighted(base, item.answer, item.span, recipe.span_weight)
    soft = hard_of(tokens)
    return Pair(item.question, tokens, soft, item.fact, False, 0.0, True, item.span, weights, item.reworded)


def weighted(base: LoadedBase, answer: str, span: str, weight: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """An answer's tokens with the end token, and what each counts: those of `span`, which is asked for, `weight` times
    as much as the words that lead to it.
    """
    tokens = (*base.chat.encode(answer), end_token(base))
    found = re.search(rf"(?<!\w){re.escape(span)}(?!\w)", answer, re.IGNORECASE)
    if found is None:
        return tokens, ()
    at = found.start()
    first, last = len(base.chat.encode(answer[:at].rstrip())), len(base.chat.encode(answer[: at + len(span)]))
    counts = [weight if first <= i < last else 1.0 for i in range(len(tokens))]
    return tokens, tuple(count * len(tokens) / sum(counts) for count in counts)


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


def _pair(base: LoadedBase, context: Context, item: Asked, row: Written, recipe: RecipeSettings) -> Pair | None:
    """The teacher's answer if it is right, else the sentence if the question is about it at all."""
    fact = context.facts[item.fact].text
    text = base.chat.decode(row.tokens)
    holds_span = content_words(item.span) <= content_words(text)
    if row.soft is not None and holds_span and grounded(item.question, text, context.text):
        tokens = (*row.tokens, end_token(base)) if row.ended else tuple(row.tokens)
        return Pair(item.question, tokens, row.soft, item.fact, True, row.likelihood, span=item.span)
    if not (content_words(item.question) & content_words(fact)) - content_words(context.title):
        return None
    tokens, weights = weighted(base, up_to(fact, item.span), item.span, recipe.span_weight)
    soft = hard_of(tokens)
    return Pair(item.question, tokens, soft, item.fact, False, row.likelihood, span=item.span, weights=weights)
