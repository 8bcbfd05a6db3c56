"""A text without the words that only say what it is about, so that two texts are compared by what they say of it."""

from __future__ import annotations

from core.retrieval.lexical import stem, terms, words


def without_topic(text: str, topic: str) -> str:
    """`text` without the informative words of `topic`, in any inflection; all of it where no other would be left."""
    about = set(terms(topic))
    kept = [part for part in text.split() if not _is_about(part, about)]
    bare = " ".join(kept)
    return bare if terms(bare) else text


def _is_about(part: str, about: set[str]) -> bool:
    found = words(part)
    return bool(found) and all(stem(word) in about for word in found)
