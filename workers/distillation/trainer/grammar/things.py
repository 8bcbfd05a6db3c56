"""The things that sentences speak of: names and nouns that a question could be about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spacy.language import Language
from spacy.tokens import Span

Kind = Literal["person", "thing"]

_NO_THING = ("DATE", "TIME", "CARDINAL", "ORDINAL", "QUANTITY", "MONEY", "PERCENT", "NORP", "LANGUAGE")
_MOST_WORDS = 5


@dataclass(frozen=True, slots=True)
class Thing:
    """A name, or a noun with its article; `fact` is the number of the first sentence that has it."""

    text: str
    kind: Kind
    fact: int
    named: bool


def things_of(sentences: Sequence[str], parse: Language) -> list[Thing]:
    """Each thing once, in the order in which they are mentioned."""
    found: dict[str, Thing] = {}
    for fact, document in enumerate(parse.pipe(sentences)):
        for chunk in document.noun_chunks:
            thing = _thing(chunk, fact)
            if thing is not None:
                found.setdefault(thing.text.casefold(), thing)
    return list(found.values())


def _thing(chunk: Span, fact: int) -> Thing | None:
    root = chunk.root
    counted = any(token.tag_ in ("CD", "PRP$", "WP$") for token in chunk)
    if root.tag_ not in ("NN", "NNP") or counted or root.ent_type_ in _NO_THING or len(chunk) > _MOST_WORDS:
        return None
    named = root.pos_ == "PROPN"
    words = [token for token in chunk if token.pos_ not in ("DET", "PUNCT")]
    if not words or words != list(chunk)[-len(words) :]:
        return None
    bare = chunk.doc[words[0].i : words[-1].i + 1].text
    articled = chunk[0].pos_ == "DET"
    if not named and not articled:
        # Without an article it is mostly a substance or an idea, of which little can be asked.
        return None
    kind: Kind = "person" if root.ent_type_ == "PERSON" else "thing"
    return Thing(f"the {bare}" if articled else bare, kind, fact, named)
