from __future__ import annotations

import pytest

from workers.distillation.trainer.questions import clean_question, distinct, grounded, keeps_names, question_vocabulary


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("who built the old lighthouse? And more", "Who built the old lighthouse?"),
        ("A statement about a lighthouse.", None),
        ("What does the text say?", None),
        ("Why?", None),
        ("What what what what what what?", None),
    ],
)
def test_only_a_whole_question_that_stands_alone_is_kept(raw: str, clean: str | None) -> None:
    assert clean_question(raw) == clean


def test_near_duplicates_of_an_earlier_question_are_dropped() -> None:
    asked = ["Who is the mayor of Oakmere?", "Who is the Mayor of Oakmere ?", "When was Oakmere founded?"]
    assert distinct(asked) == [0, 2]


SOURCE = "The lighthouse is 61 metres tall and was built by Maren Holt."


def test_an_answer_from_the_source_is_grounded() -> None:
    assert grounded("How tall is it?", "The lighthouse is 61 metres tall.", SOURCE)


def test_a_number_that_the_source_does_not_hold_is_never_grounded() -> None:
    assert not grounded("How tall is it?", "The lighthouse is 63 metres tall.", SOURCE)


def test_an_answer_that_only_repeats_the_question_is_not_grounded() -> None:
    assert not grounded("Who built the lighthouse?", "The lighthouse.", SOURCE)


def test_an_answer_of_other_words_is_not_grounded() -> None:
    assert not grounded("Who built it?", "A famous architect from Paris, with Maren.", SOURCE)


def test_a_question_may_use_the_sentences_words_and_question_words_but_not_the_answers() -> None:
    words = question_vocabulary("The Hallam rope factory employs 415 people.", "Varrow Quay", "415 people")
    assert {"Hallam", "rope", "factory", "employs", "employ", "Varrow", "Quay", "How".lower(), "does"} <= set(words)
    assert "415" not in words
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("Who founded the town of Varrow Quay?", True),
        ("Who founded the town of Varvik?", False),
        ("What is Varrow's oldest building?", True),
        ("What is it called?", True),
    ],
)
def test_a_question_with_a_name_that_nobody_mentioned_is_noticed(question: str, kept: bool) -> None:
    assert keeps_names(question, "Varrow Quay is a town.") is kept
