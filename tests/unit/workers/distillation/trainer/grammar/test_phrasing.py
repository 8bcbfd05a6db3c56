from __future__ import annotations

from collections import Counter

from workers.distillation.trainer.grammar.phrasing import about

TOPIC = "Tarn Mill"
THINGS = [f"item {number}" for number in range(200)]


def _forms(questions: list[str]) -> Counter[str]:
    """How many of them name the topic first, last, or not at all."""
    asked = [about(question, TOPIC) for question in questions]
    assert asked == [about(question, TOPIC) for question in questions]
    at = ["first" if "mill: " in one.casefold() else "last" if one.endswith(f" {TOPIC}?") else "none" for one in asked]
    return Counter(at)


def test_a_question_is_mostly_told_whose_it_is_in_several_ways_and_always_the_same() -> None:
    forms = _forms([f"what does {thing} cost" for thing in THINGS])
    assert forms["first"] > 40
    assert forms["last"] > 40
    assert 10 < forms["none"] < 80


def test_a_question_with_a_name_of_its_own_mostly_stands_alone() -> None:
    forms = _forms([f"what does {thing} of Anna Holm cost" for thing in THINGS])
    assert forms["none"] > forms["first"] > 20
    assert forms["last"] == 0


def test_a_question_about_the_topic_is_left_as_it_is() -> None:
    assert about("who built the mill", TOPIC) == "Who built the mill?"


def test_a_question_begins_with_a_capital() -> None:
    assert {about(f"what does {thing} cost", TOPIC)[0] for thing in THINGS} == {"A", "T", "W"}
