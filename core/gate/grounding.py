"""Whether a memory could have said what its adapter drafts: the draft's words against the words of its index.

A memory that does not hold the answer either leaves the base to speak, whose names and numbers are its own, or repeats
words of the question that its text never uses.
"""

from __future__ import annotations

from collections.abc import Set

from core.gate.features import GroundingSignals
from core.retrieval.lexical import terms


def grounding(question: str, draft: str, vocabulary: Set[str], *, ended: bool) -> GroundingSignals:
    """How many informative words of `draft` are in `vocabulary` (of stems) and how many are not.

    A draft that has not `ended` may break off within a word: its last one is not looked at.
    """
    words = draft.split()
    read = " ".join(words if ended else words[:-1])
    asked, said = set(terms(question)), set(terms(read))
    return GroundingSignals(
        supported=float(len((said & vocabulary) - asked)), unsupported=float(len(said - vocabulary))
    )
