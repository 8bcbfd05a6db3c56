from __future__ import annotations

import pytest

from core.evaluation.scoring import is_right, normalise, token_f1


def test_text_is_normalised_as_squad_does() -> None:
    assert normalise(" The  quick, brown-fox's an Answer. ") == "quick brownfoxs answer"


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("It was founded in 1683, by a merchant.", ["1683"], True),
        ("It was founded in 16830.", ["1683"], False),
        ("The River Tessle!", ["Thames", "river tessle"], True),
        ("A dog, the Biscuit", ["dog biscuit"], True),
        ("River of the Tessle", ["River Tessle"], False),
        ("", ["x"], False),
        ("anything", [], False),
        ("anything", ["the"], False),
    ],
)
def test_an_answer_is_right_where_an_accepted_one_occurs_in_it(answer: str, accepted: list[str], right: bool) -> None:
    assert is_right(answer, accepted) is right


@pytest.mark.parametrize(
    ("answer", "accepted", "f1"),
    [
        ("the grey slate", ["Grey slate."], 1.0),
        ("grey slate of Orsk", ["grey slate"], 2 / 3),
        ("slate slate", ["slate"], 2 / 3),
        ("slate", ["granite", "slate"], 1.0),
        ("granite", ["slate"], 0.0),
        ("", ["slate"], 0.0),
        ("slate", [], 0.0),
    ],
)
def test_f1_is_over_shared_words_and_of_the_best_accepted_answer(answer: str, accepted: list[str], f1: float) -> None:
    assert token_f1(answer, accepted) == pytest.approx(f1)
