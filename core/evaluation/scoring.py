"""Is an answer right? As SQuAD's official evaluation sees it (Rajpurkar et al. 2016); pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def is_right(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an accepted answer occurs in `answer`, both normalised, as a sequence of whole words.

    An accepted answer of which normalisation leaves nothing is never found.
    """
    words = f" {normalise(answer)} "
    return any(f" {bare} " in words for bare in map(normalise, accepted) if bare)


def token_f1(answer: str, accepted: Iterable[str]) -> float:
    """The best F1 over `accepted` of the normalised words that both have; 0 to 1."""
    return max((_f1(normalise(answer).split(), normalise(one).split()) for one in accepted), default=0.0)


def _f1(answer: list[str], accepted: list[str]) -> float:
    shared = sum((Counter(answer) & Counter(accepted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(accepted)
    return 2 * precision * recall / (precision + recall)
