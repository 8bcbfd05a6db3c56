"""Whether an answer is right: an accepted answer occurs in it, both normalised as SQuAD does.

To be replaced by `core/evaluation/scoring.py` once that is there.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def right(answer: str, accepted: Sequence[str]) -> bool:
    """Occurs as whole words, so that 41 is not found in 415."""
    padded = f" {normalised(answer)} "
    return any(f" {normalised(one)} " in padded for one in accepted)


def normalised(text: str) -> str:
    """SQuAD's: lower case, no punctuation, no articles, single spaces (Rajpurkar et al., arXiv 1606.05250)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())
