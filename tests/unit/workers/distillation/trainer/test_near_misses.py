"""Questions of a context's own matters that its text does not answer."""

from __future__ import annotations

import pytest

from core.settings import RecipeSettings
from workers.distillation.trainer.contexts import Context, text_context
from workers.distillation.trainer.near_misses import near_misses
from workers.distillation.trainer.off_topic import unanswerable
from workers.distillation.trainer.pairs import Asked
from workers.distillation.trainer.self_study import state

TITLE = "Tarn Mill"
TEXT = (
    "The bell was cast in 1702. The organ cost 900 crowns. Peter Jones sells honey. The ferry leaves at 06:40. "
    "The library opens at 09:15. The tower is 31 metres high. Anna Holm speaks four languages."
)
ALL = RecipeSettings(near_misses=400)


def _context(text: str = TEXT) -> Context:
    return text_context(TITLE, text)


def _made(text: str = TEXT, recipe: RecipeSettings = ALL) -> tuple[str, ...]:
    context = _context(text)
    return near_misses(context, state(context, recipe), recipe)


def _asked(question: str, fact: int, answer: str = "Some answer.") -> Asked:
    return Asked(question, fact, "span", answer)


def _crossed(text: str, *asked: Asked) -> set[str]:
    """What `asked` brings to the near misses of `text`."""
    context = _context(text)
    with_, without = near_misses(context, asked, ALL), near_misses(context, (), ALL)
    return {*with_} - {*without}


def test_a_thing_is_asked_for_properties_that_no_sentence_has() -> None:
    made = _made()
    both = {*made}
    assert "Who owns the organ (Tarn Mill)?" in made
    assert "What colour is the bell (Tarn Mill)?" in made
    assert any(question.startswith("How old is Peter Jones") for question in made)
    assert any(question.startswith("Which car does Peter Jones drive") for question in made)
    # Who knows whether "the organ", which cost 900 crowns, is not another name of the bell?
    assert "How much does the bell cost (Tarn Mill)?" not in both


@pytest.mark.parametrize(
    "told",
    [
        "How much does the organ cost (Tarn Mill)?",
        "How tall is the tower (Tarn Mill)?",
        "Which languages does Anna Holm speak (Tarn Mill)?",
        "When was the bell cast (Tarn Mill)?",
    ],
)
def test_what_a_sentence_tells_is_no_near_miss(told: str) -> None:
    made = _made()
    assert told not in {*made}


def test_a_thing_may_go_by_another_name() -> None:
    made = _made("The Brindle K40 is an electric kettle. The kettle costs 40 pounds. It was designed by Mara Voss.")
    asked = {*made}
    assert not any("cost" in question or "designed" in question for question in asked if "K40 (" in question)
    assert not any("electric kettle" in question and "cost" in question for question in asked)


def test_any_sentence_that_names_the_thing_may_tell_it() -> None:
    made = _made("The organ is loud. Visitors who pay a fee of 3 crowns may play the organ. It is never cleaned.")
    asked = {*made}
    assert "Who owns the organ (Tarn Mill)?" in asked
    assert "How much does the organ cost (Tarn Mill)?" not in asked
    assert "How many people visit the organ each year (Tarn Mill)?" not in asked


def test_people_and_things_are_asked_for_what_they_may_have() -> None:
    made = _made()
    of_person = [question for question in made if "Peter Jones" in question]
    assert any("married" in question for question in of_person)
    assert not any("made of" in question or "designed" in question for question in of_person)


def test_no_question_comes_twice() -> None:
    made = _made()
    assert len(set(made)) == len(made) > 50


def test_questions_that_the_text_answers_are_asked_of_its_other_things() -> None:
    text = "The bell was cast in 1702. The organ is loud. Peter Jones sells honey. Anna Holm sings."
    assert _crossed(text, _asked("When was the bell of Tarn Mill cast?", 0)) == {
        "When was the organ of Tarn Mill cast?"
    }
    # People with people, and names with names.
    assert _crossed(text, _asked("Tarn Mill: what does Peter Jones sell?", 2)) == {
        "Tarn Mill: what does Anna Holm sell?"
    }


def test_a_question_about_what_a_name_is_part_of_is_not_asked_of_another_name() -> None:
    text = "The King of Lorne sold the bell. Isaac Holm came. Richard the Bold sailed from Hask."
    assert (
        _crossed(text, _asked("What did the King of Lorne sell?", 0), _asked("Where did Richard the Bold sail?", 2))
        == set()
    )


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        # A sentence with both may answer for both.
        ("The bell and the organ were made in 1702.", [_asked("When was the bell of Tarn Mill made?", 0)]),
        # The text answers it for the other, too.
        (
            "The bell was cast in 1702. The organ was cast in 1740.",
            [
                _asked("When was the bell of Tarn Mill cast?", 0),
                _asked("When was the organ of Tarn Mill cast?", 1),
            ],
        ),
        # The base asked it, and may be wrong.
        ("The bell was cast in 1702. The organ is loud.", [_asked("When was the bell of Tarn Mill cast?", 0, "")]),
        # It is about none of the things.
        ("The bell was cast in 1702. The organ is loud.", [_asked("What does Tarn Mill grind?", 0)]),
        # There is no other person.
        ("Peter Jones sells honey. The organ is loud.", [_asked("Tarn Mill: what does Peter Jones sell?", 0)]),
    ],
)
def test_a_question_is_not_asked_of_a_thing_that_may_have_an_answer_or_is_of_another_kind(
    text: str, asked: list[Asked]
) -> None:
    assert _crossed(text, *asked) == set()


def test_a_property_is_asked_for_with_the_topic_or_of_something_with_a_name() -> None:
    made = near_misses(_context("The mill is quiet. Peter Jones sings."), (), ALL)
    assert "How tall is the mill?" in {*made}
    assert all("mill" in question.casefold() or "Peter Jones" in question for question in made)


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_there_are_as_many_as_the_recipe_wants(count: int) -> None:
    made = _made(recipe=RecipeSettings(near_misses=count))
    assert len(made) == count


def test_a_recipe_s_near_misses_are_of_both_kinds_where_there_are_enough() -> None:
    made = _made(recipe=RecipeSettings(near_misses=6))
    crossed = _crossed(TEXT, *state(_context(), ALL))
    assert sum(question in crossed for question in made) == 3


def test_where_the_text_has_too_few_things_questions_that_fit_every_subject_fill_up() -> None:
    made = _made("It rains.")
    plain = unanswerable(TITLE, "It rains.")
    assert made == tuple(plain)
    few = _made("It rains.", RecipeSettings(near_misses=2))
    assert few == tuple(plain[:2])


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        (TEXT, RecipeSettings(parser="")),
        ("Die Mühle steht seit 1871 am Fluss. Die Glocke wurde 1702 in Lissabon gegossen.", RecipeSettings()),
    ],
)
def test_without_a_parser_or_in_another_language_only_these_are_asked(text: str, recipe: RecipeSettings) -> None:
    made = _made(text, recipe)
    plain = unanswerable(TITLE, text)
    assert made == tuple(plain[: recipe.near_misses])


def test_the_seed_alone_chooses() -> None:
    few = RecipeSettings(near_misses=4)
    assert _made(recipe=few) == _made(recipe=few)
    assert _made(recipe=few) != _made(recipe=few.model_copy(update={"seed": 1}))
