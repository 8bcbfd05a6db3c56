"""Questions by grammar: clean where the rules apply, none elsewhere."""

from __future__ import annotations

import pytest

from workers.distillation.trainer.statements import statements_of

_TITLE = "Lake Morrow"


@pytest.mark.parametrize(
    ("sentence", "question", "span"),
    [
        ("The keeper of Lake Morrow is Otto Field.", "Who is the keeper of Lake Morrow?", "Otto Field"),
        ("It was mapped in 1911 by Otto Field.", "When was Lake Morrow mapped?", "1911 by Otto Field"),
        ("The boat house is made of larch.", "What is the boat house of Lake Morrow made of?", "larch"),
        ("The island of Lake Morrow is called Tern.", "What is the island of Lake Morrow called?", "Tern"),
        ("Lake Morrow was mapped by Otto Field.", "Who mapped Lake Morrow?", "Otto Field"),
        ("The ferry over Lake Morrow takes two hours.", "How long does the ferry over Lake Morrow take?", "two hours"),
        ("A bell at Lake Morrow means that fog comes.", "What does a bell at Lake Morrow mean?", "fog comes"),
    ],
)
def test_a_plain_sentence_asks_for_what_it_says(sentence: str, question: str, span: str) -> None:
    found = {statement.question: statement.span for statement in statements_of(sentence, _TITLE)}
    assert found.get(question) == span, found


@pytest.mark.parametrize(
    "sentence",
    [
        "To open the gate, which is old, pull the chain.",
        "There is a boat.",
        "If nobody answers, the duty manager is called.",
        "Swim only in summer.",
        "",
    ],
)
def test_what_the_rules_do_not_fit_is_left_to_the_base(sentence: str) -> None:
    assert statements_of(sentence, _TITLE) == []
