"""The things that sentences speak of: names and nouns that a question could be about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spacy.language import Language
from spacy.tokens import Span

from workers.distillation.trainer.grammar.people import is_human

Kind = Literal["person", "name", "thing"]

_NO_THING = ("DATE", "TIME", "CARDINAL", "ORDINAL", "QUANTITY", "MONEY", "PERCENT", "NORP", "LANGUAGE")
_VAGUE_WORDS = (
    "time day night morning afternoon evening noon week weekend month year season spring summer autumn winter hour "
    "minute moment end start beginning rest part number way case example"
)
_VAGUE = frozenset(_VAGUE_WORDS.split())
"""Nouns of which no property is asked for."""
_MOST_WORDS = 5


@dataclass(frozen=True, slots=True)
class Thing:
    """A name, or a noun with its article: of a person, of something else that has a name, or of a thing."""

    text: str
    kind: Kind
    named: bool


def things_of(sentences: Sequence[str], parse: Language) -> list[Thing]:
    """Each thing once, in the order in which they are mentioned."""
    found: dict[str, Thing] = {}
    for document in parse.pipe(sentences):
        for chunk in document.noun_chunks:
            thing = _thing(chunk)
            if thing is not None:
                found.setdefault(thing.text.casefold(), thing)
    return list(found.values())


def _thing(chunk: Span) -> Thing | None:
    root = chunk.root
    counted = any(token.tag_ in ("CD", "PRP$", "WP$") for token in chunk)
    if root.tag_ not in ("NN", "NNP") or counted or root.ent_type_ in _NO_THING or len(chunk) > _MOST_WORDS:
        return None
    named = root.pos_ == "PROPN"
    words = [token for token in chunk if token.pos_ not in ("DET", "PUNCT")]
    if root.lemma_.casefold() in _VAGUE or not words or words != list(chunk)[-len(words) :]:
        return None
    bare = chunk.doc[words[0].i : words[-1].i + 1].text
    articled = chunk[0].pos_ == "DET"
    if not named and not articled:
        # Without an article it is mostly a substance or an idea, of which little can be asked.
        return None
    kind: Kind = "person" if root.ent_type_ == "PERSON" or is_human(root) else "name" if named else "thing"
    return Thing(f"the {bare}" if articled else bare, kind, named)
