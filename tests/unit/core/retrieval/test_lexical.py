from __future__ import annotations

import pytest

from core.retrieval.lexical import overlap, stem, terms, words


def test_case_accents_and_possessives_do_not_matter() -> None:
    assert words("Müller’s CAFÉ") == ["muller", "cafe"]


def test_numbers_are_kept_whole() -> None:
    assert terms("It cost 1,200 or 3.5 at 06:40 on port 7.") == ["cost", "1200", "3.5", "06:40", "port", "7"]


def test_function_words_and_question_words_carry_nothing() -> None:
    assert terms("What is the name of it, and who are they?") == []


@pytest.mark.parametrize(
    "inflections",
    [
        ("open", "opens", "opened", "opening"),
        ("make", "makes", "making"),
        ("stop", "stops", "stopped", "stopping"),
        ("city", "cities"),
        ("class", "classes"),
        ("bus", "buses"),
        ("study", "studies", "studied"),
    ],
)
def test_inflections_of_one_word_meet(inflections: tuple[str, ...]) -> None:
    assert len({stem(word) for word in inflections}) == 1


def test_different_words_stay_apart() -> None:
    assert len({stem(word) for word in ("bus", "bush", "butter", "needle", "kettle", "october")}) == 6


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert overlap("東京タワー", frozenset(terms("東京の塔"))) == pytest.approx(2 / 5)


def test_the_overlap_is_the_share_of_informative_words_found() -> None:
    vocabulary = frozenset(terms("The Grey Needle lighthouse was built from green basalt."))
    assert overlap("What is the lighthouse built of?", vocabulary) == 1.0
    assert overlap("Which lighthouse keeper built it?", vocabulary) == pytest.approx(2 / 3)
    assert overlap("What is the capital of France?", vocabulary) == 0.0
    assert overlap("Who are you?", vocabulary) == 0.0
