"""How questions and statements are put: whose they are, capitals, articles, and whether something is counted."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from spacy.tokens import Token

from workers.distillation.trainer.questions import content_words

_WITH_TOPIC = ("{topic}: {question}", "{question} in {topic}", "{question} at {topic}", "about {topic}: {question}")
ALONE = "{question}"
_FORMS = (*_WITH_TOPIC, ALONE)
_FORMS_WITH_A_NAME = (*_WITH_TOPIC[::3], *[ALONE] * 4)
"""Whoever asks about something with a name of its own seldom says in which text it stands."""
_SMALL_WORDS = (
    "the a an its his her their our my this that each every in on at to for from with by after before during if when "
    "what who which where how of most some many all as until "
)
_SMALL = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True, slots=True)
class Stated:
    """A question, the words that it asks for, and the statement that answers it and stands alone."""

    question: str
    span: str
    answer: str


def about(text: str, topic: str) -> str:
    """The question with its subject: one that names no word of the topic is mostly told whose it is."""
    form = ALONE if content_words(topic) & content_words(text) else form_of(text)
    asked = form.format(topic=topic, question=text if form == ALONE else lowered(text))
    return f"{asked[0].upper()}{asked[1:]}?"


def form_of(text: str) -> str:
    """How a question of these words names its topic, if it does: always the same way, but others do otherwise."""
    forms = _FORMS_WITH_A_NAME if any(word[:1].isupper() for word in text.split()[1:]) else _FORMS
    return forms[zlib.crc32(text.encode()) % len(forms)]


def sentence(text: str) -> str:
    """The words as a statement, with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def lowered(words: str) -> str:
    """The first word small, unless it is a name."""
    first, space, rest = words.partition(" ")
    plain = len(first) == 1 or first[1:].islower()
    return f"{first.casefold()}{space}{rest}" if plain and first.casefold() in _SMALL else words


def bare(words: str) -> str:
    """The words without an article or a possessive before them."""
    first, _, rest = words.partition(" ")
    return rest if first.casefold() in ("a", "an", "the", "its", "his", "her", "their", "our", "my") and rest else words


def counted(head: Token) -> bool:
    """Whether a number stands with the noun."""
    return any(child.dep_ in ("nummod", "quantmod") for child in head.children)
