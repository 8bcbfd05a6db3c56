"""The parser of English sentences: spaCy's small pipeline, from a package, loaded once."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import spacy
from spacy.language import Language

from core.base_model.reference import locate
from core.errors import SetupError

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_ENGLISH_WORDS = (
    "the and to of that it with you your not this but be are were have has had from they their she his her him its my "
    "our us i'm i've i'll it's don't does did can could will would should must which who what when where how if "
    "there than then these those some any every each about into out up down after before because by please"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
"""Common words of English that other languages hardly write alike."""
_FOREIGN_WORDS = (
    "de het een van en niet dat ik je zijn voor met er aan zich ook maar og det den til som på han af ikke jeg "
    "med av att och är inte der und das ist nicht ein eine zu dem mit auf sich es wird le la les des et est une "
    "dans que pour qui du au pas ne sur el los las una por con del su il che di non sono como os um uma não "
    "nie 'n vir sy na do w z się jest"
)
_FOREIGN = frozenset(_FOREIGN_WORDS.split())
LEAST_COMMON = 0.08
"""Share of English text that consists of those common words, at the least."""


@cache
def load_parser(reference: str) -> Language:
    """The pipeline that `reference` names. Raises `SetupError` where it is not there."""
    directory = Path(locate(reference).directory)
    try:
        return spacy.load(directory, exclude=["senter"])
    except (OSError, ValueError) as problem:
        raise SetupError(f"The parser {reference} can't be loaded: {problem}") from problem


def is_english(text: str) -> bool:
    """Whether the grammar's rules are for this text; short texts get the benefit of the doubt."""
    words = [word.replace("’", "'") for word in _WORD.findall(text.casefold())]
    english, foreign = (sum(word in common for word in words) for common in (_ENGLISH, _FOREIGN))
    return english >= foreign and (len(words) < 8 or english >= LEAST_COMMON * len(words))
