"""Questions that noun phrases answer by themselves: names, appositions, colours, amounts."""

from __future__ import annotations

from collections.abc import Iterator

from spacy.tokens import Doc, Token

from workers.distillation.trainer.grammar.clauses import Mentions, phrase
from workers.distillation.trainer.grammar.people import is_human
from workers.distillation.trainer.grammar.phrasing import Stated, about, bare, counted, lowered, sentence
from workers.distillation.trainer.grammar.wording import COLOURS

_NO_AMOUNT = ("attr", "nsubj", "nsubjpass", "ROOT")


def of_nouns(document: Doc, topic: str, mentions: Mentions) -> Iterator[Stated]:
    """What noun phrases say by themselves: names, appositions, amounts ("a capacity of 1.6 litres"), owners."""
    for token in document:
        if token.pos_ not in ("NOUN", "PROPN"):
            continue
        for child in token.children:
            if child.dep_ == "appos" and child.pos_ in ("NOUN", "PROPN"):
                yield from _apposition(token, child, topic, mentions)
            elif child.dep_ == "acl" and child.lower_ in ("named", "called"):
                name = next((c for c in child.children if c.dep_ in ("oprd", "attr", "dobj")), None)
                if name is not None:
                    yield from _name(phrase(token, mentions, without=[child]), phrase(name, mentions), topic)
            elif child.dep_ == "amod" and child.lower_ in COLOURS:
                thing = bare(phrase(token, mentions, without=[child]))
                told = sentence(f"the {thing} is {child.text}")
                yield Stated(about(f"What colour is the {thing}", topic), child.text, told)
            elif child.dep_ == "prep" and child.lower_ == "of" and token.pos_ == "NOUN":
                amount = next((c for c in child.children if c.dep_ == "pobj"), None)
                if amount is not None and counted(amount) and not counted(token) and token.dep_ not in _NO_AMOUNT:
                    text = about(f"What is the {token.text}", topic)
                    told = phrase(amount, mentions)
                    yield Stated(text, told, sentence(f"the {token.text} is {told}"))


def _apposition(token: Token, other: Token, topic: str, mentions: Mentions) -> Iterator[Stated]:
    one, two = phrase(token, mentions, without=[other]), phrase(other, mentions)
    if two.casefold().startswith("not ") or other.doc[other.left_edge.i - 1].lower_ == "not":
        return
    if token.pos_ == "NOUN" and other.pos_ == "PROPN":
        one, two, token, other = two, one, other, token
    if token.pos_ != "PROPN":
        return
    told = sentence(f"{one} is {lowered(two)}")
    yield Stated(about(f"{'Who' if is_human(token) else 'What'} is {one}", topic), two, told)
    described = two.partition(" ")[2] if two.partition(" ")[0].casefold() in ("a", "an", "the") else two
    yield Stated(about(f"{'Who' if is_human(token) else 'What'} is the {bare(described)}", topic), one, told)


def _name(thing: str, name: str, topic: str) -> Iterator[Stated]:
    plain = bare(thing)
    told = sentence(f"the name of the {plain} is {name}")
    yield Stated(about(f"What is the name of the {plain}", topic), name, told)
    yield Stated(about(f"What is the {plain} called", topic), name, sentence(f"the {plain} is called {name}"))
