from __future__ import annotations

import pytest

from core.gate.features import GroundingSignals
from core.gate.grounding import grounding
from core.retrieval.lexical import terms

KNOWN = frozenset(terms("The old ferry to Lorne leaves at 06:40 and carries twelve wagons of barley."))
QUESTION = "When does the ferry to Lorne leave?"


def read(draft: str, *, question: str = QUESTION, ended: bool = True) -> tuple[float, float]:
    """Supported and unsupported words of `draft`."""
    signals = grounding(question, draft, KNOWN, ended=ended)
    return signals.supported, signals.unsupported


def test_words_of_the_memory_that_the_question_did_not_bring_are_support() -> None:
    assert read("The ferry to Lorne leaves at 06:40.") == (1, 0)
    assert read("It carries twelve wagons of barley.") == (4, 0)


def test_words_that_the_memory_does_not_hold_count_against_it() -> None:
    assert read("The ferry leaves at 09:15 from Marwick.") == (0, 2)


def test_words_of_the_question_support_nothing_but_count_where_the_memory_never_uses_them() -> None:
    assert read("The ferry leaves.") == (0, 0)
    assert read("The captain of the ferry", question="Who is the captain of the ferry?") == (0, 1)


def test_words_without_information_count_on_neither_side() -> None:
    assert read("It is what it was, and so they are.") == (0, 0)


def test_a_word_counts_once_and_in_any_inflection() -> None:
    assert read("Wagon after wagon after WAGONS, carrying, carried.") == (2, 0)
    assert read("Marwick, Marwick, Marwick") == (0, 1)


def test_the_last_word_of_a_draft_that_goes_on_is_not_looked_at() -> None:
    assert read("It carries twelve wag", ended=False) == (2, 0)
    assert read("It carries twelve wag", ended=True) == (2, 1)
    assert read("Marw", ended=False) == (0, 0)


@pytest.mark.parametrize("ended", [True, False])
def test_a_draft_without_words_says_nothing(ended: bool) -> None:
    assert grounding(QUESTION, "", KNOWN, ended=ended) == GroundingSignals(0.0, 0.0)


def test_a_memory_without_words_supports_nothing() -> None:
    assert grounding(QUESTION, "At 06:40.", frozenset(), ended=True) == GroundingSignals(0.0, 1.0)
