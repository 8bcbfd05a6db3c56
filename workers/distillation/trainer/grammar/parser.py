"""The parser of English sentences: spaCy's small pipeline, from a package, loaded once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import spacy
from spacy.language import Language

from core.base_model.reference import locate
from core.errors import SetupError

_COMMON_WORDS = "the of and to in is was are were a an for with that it on as by at from be has have this"
_COMMON = frozenset(_COMMON_WORDS.split())
LEAST_COMMON = 0.12
"""Share of English text that consists of its commonest words, at the least."""


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
    words = text.casefold().split()
    return len(words) < 8 or sum(word in _COMMON for word in words) >= LEAST_COMMON * len(words)
