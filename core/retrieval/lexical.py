"""Words as the lexical half of retrieval sees them: normalised, without function words, cut to a stem."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set

# Scripts written without spaces have no words to split at; there every character counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|\d+")
_NUMBER = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_POSSESSIVE = re.compile(r"['’]s?$")

_STOP_TEXT = """
a about above after again all also am an and any anybody anyone anything are around as at be because been before
being below between both but by can cannot come could did do does doing done down during each either else ever
every everyone everything exactly few find first for from get give given go good got had has have having he her
here hers herself him himself his how however i if in into is it its itself just know known know let like ll made
make many may maybe me might more most much must my myself need neither never no nobody none nor not nothing now of
off often on once one only onto or other our ours out over own please possible quite rather re really s said same
say see shall she should so some somebody someone something still such t take tell than thank thanks that the their
theirs them themselves then there these they thing things this those through to too toward under until up upon us
use used using ve very via want was way we well were what whatever when where whether which while who whoever whom
whose why will with within without would yes yet you your yours yourself
answer ask briefly describe explain mention mentioned name please question sentence short summarise summarize text
document according called
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())


def words(text: str) -> list[str]:
    """All words of `text` in order: case and accents folded, numbers kept whole (`1,200` is `1200`)."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    recomposed = unicodedata.normalize("NFC", _NUMBER.sub("", folded))
    return [_POSSESSIVE.sub("", word) for word in _WORD.findall(recomposed)]


def terms(text: str) -> list[str]:
    """The stems of the informative words of `text`, in order, repeated as often as they occur."""
    return [
        stem(word)
        for word in words(text)
        if word.isdigit() or (word not in STOP_WORDS and (len(word) > 1 or not word.isascii()))
    ]


def overlap(question: str, vocabulary: Set[str]) -> float:
    """The share, 0 to 1, of the question's informative words that are in `vocabulary` (of stems); 0 without any."""
    asked = set(terms(question))
    return len(asked & vocabulary) / len(asked) if asked else 0.0


def stem(word: str) -> str:
    """A light stem for matching inflections of one word, not for reading: `opened`, `opens`, `opening` are `open`."""
    if not word.isalpha() or len(word) < 4:
        return word
    for ending, replacement in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return _tidy(word[: -len(ending)] + replacement)
    return _tidy(word)


_ENDINGS = (
    ("sses", "ss"),
    ("ies", "y"),
    ("ied", "y"),
    ("ness", ""),
    ("ings", ""),
    ("ing", ""),
    ("edly", ""),
    ("ed", ""),
    ("ly", ""),
    ("ss", "ss"),
    ("us", "us"),
    ("is", "is"),
    ("es", "e"),
    ("s", ""),
)


def _tidy(word: str) -> str:
    """Makes the stems of `stopped`, `stops` and `making`, `makes` meet."""
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
