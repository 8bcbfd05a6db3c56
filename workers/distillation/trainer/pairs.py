"""Questions with their answers, as self-study makes them: what to learn of them, and what to hold out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from core.engine.decoding import Soft
from core.settings import RecipeSettings
from workers.distillation.trainer.questions import words_of

LEAST_LEARNT = 2
"""Sound pairs that a fact needs, or none of them is held out."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question for `span`, words of the fact with number `fact`.

    `answer` is a statement that stands alone, where the fact's own grammar gave it together with the question, so that
    they surely belong together; else it is empty, and the answer is still to be found. `reworded` says that words of
    the question were exchanged for ones used alike.
    """

    question: str
    fact: int
    span: str
    answer: str = ""
    reworded: bool = False

    @property
    def stated(self) -> bool:
        return bool(self.answer)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A question, its answer's tokens (with the end token), and the target of every one of them.

    `taught` says whether the teacher wrote the answer; `sure` is its mean log-probability; `stated` and `span` as of
    `Asked`.
    """

    question: str
    answer: tuple[int, ...]
    soft: Soft
    fact: int
    taught: bool
    sure: float
    stated: bool = False
    span: str = ""
    weights: tuple[float, ...] = ()
    """What each token's target counts, 1 on average; empty: all alike."""
    reworded: bool = False
    gap: bool = False
    """Whether it is a sentence with a gap, or a request to tell everything: no question that a user would ask."""

    @property
    def sound(self) -> bool:
        """Whether question and answer surely belong together."""
        return self.taught or self.stated


@dataclass(frozen=True, slots=True)
class Study:
    """`learn` is for training, `held_out` for early stopping and calibration; they share no question. `near` are
    questions that the text does not answer."""

    learn: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    near: tuple[str, ...]
    asked: int
    taught: int
    by_fact: tuple[int, ...]
    """How many questions that a user could ask are learnt of each fact, in the order of the context."""

    @property
    def coverage(self) -> float:
        """Share of the facts with at least one such question."""
        return round(sum(count > 0 for count in self.by_fact) / len(self.by_fact), 4)


def choose(pairs: Sequence[Pair], recipe: RecipeSettings, facts: int, words: int = 0) -> tuple[list[Pair], list[Pair]]:
    """What to learn of a text of so many facts and words, and what to hold out.

    Learnt are pairs spread over the facts and over what is asked for in each, sound ones first.

    Held out are sound pairs that ask in other words for what is learnt too; where all are learnt, one each of facts
    that keep another.
    """
    by_fact: list[list[Pair]] = [_in_turn([pair for pair in pairs if pair.fact == fact]) for fact in range(facts)]
    # Long sentences hold more than short ones.
    limit = min(recipe.max_pairs, max(16, recipe.pairs_per_fact * facts, words // recipe.words_per_pair))
    wanted = min(recipe.held_out_pairs, len(pairs) // 4)
    spread = [pair for turn in zip_longest(*by_fact) for pair in turn if pair is not None]
    learn, spare = spread[:limit], spread[limit:]
    held = _most_different(spare, learn, wanted)
    for own in sorted(by_fact, key=len, reverse=True):
        learnt = [pair for pair in own if pair.sound and pair in learn]
        if len(held) < wanted and len(learnt) >= LEAST_LEARNT:
            held.append(learnt[-1])
            learn.remove(learnt[-1])
    return learn, held


def _in_turn(pairs: Sequence[Pair]) -> list[Pair]:
    """One pair for each span, then another for each; of each the sound and sure first, plain and reworded in turn."""
    by_span: dict[str, tuple[list[Pair], list[Pair]]] = {}
    for pair in sorted(pairs, key=lambda pair: (not pair.sound, -pair.sure)):
        by_span.setdefault(pair.span, ([], []))[pair.reworded].append(pair)
    mixed = [[pair for turn in zip_longest(*both) for pair in turn if pair is not None] for both in by_span.values()]
    return [pair for turn in zip_longest(*mixed) for pair in turn if pair is not None]


def _most_different(spare: Sequence[Pair], learn: Sequence[Pair], count: int) -> list[Pair]:
    """Of the spare pairs that ask for what is learnt, one a fact in turn: the one in the most different words of one
    fact, the one in the most similar words of the next, since users do both."""
    learnt: dict[tuple[int, str], list[frozenset[str]]] = {}
    for pair in learn:
        learnt.setdefault((pair.fact, pair.span), []).append(frozenset(words_of(pair.question)))
    by_fact: dict[int, list[tuple[float, int]]] = {}
    for at, pair in enumerate(spare):
        known = learnt.get((pair.fact, pair.span), [])
        if pair.sound and known:
            words = frozenset(words_of(pair.question))
            alike = max(len(words & other) / len(words | other) for other in known)
            by_fact.setdefault(pair.fact, []).append((alike, at))
    turns = zip_longest(*(sorted(own, reverse=fact % 2 == 1) for fact, own in by_fact.items()))
    return [spare[one[1]] for turn in turns for one in turn if one is not None][:count]
