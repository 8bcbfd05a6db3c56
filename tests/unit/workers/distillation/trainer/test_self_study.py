"""What self-study makes of a fact without asking the base: questions by grammar, and what of an answer counts."""

from __future__ import annotations

import pytest

from core.base_model.loading import LoadedBase
from core.settings import RecipeSettings
from workers.distillation.trainer.contexts import text_context
from workers.distillation.trainer.pairs import Asked
from workers.distillation.trainer.self_study import end_token, state, weighted

ANSWER = "The bell was cast in 1702."


def _counted(base: LoadedBase, answer: str, span: str, weight: float) -> dict[float, str]:
    """The text of the tokens of each weight, the end token aside."""
    tokens, weights = weighted(base, answer, span, weight)
    assert tokens == (*base.chat.encode(answer), end_token(base))
    assert len(weights) == len(tokens)
    parts: dict[float, list[int]] = {}
    for token, one in zip(tokens[:-1], weights, strict=False):
        parts.setdefault(one / weights[-1], []).append(token)
    return {round(one, 6): base.chat.decode(own) for one, own in parts.items()}


def test_the_words_asked_for_count_so_many_times_as_much_as_those_that_lead_to_them(loaded_tiny: LoadedBase) -> None:
    # The space before a word belongs to it, as in the tokens of most models.
    assert _counted(loaded_tiny, ANSWER, "1702", 3.0) == {1.0: "The bell was cast in.", 3.0: " 1702"}
    assert _counted(loaded_tiny, ANSWER, "The bell", 2.0) == {2.0: "The bell", 1.0: " was cast in 1702."}
    assert _counted(loaded_tiny, ANSWER, "cast in 1702.", 5.0) == {1.0: "The bell was", 5.0: " cast in 1702."}


@pytest.mark.parametrize("span", ["1702", "The bell", ANSWER])
@pytest.mark.parametrize("weight", [1.0, 3.0, 10.0])
def test_weights_are_one_on_average_so_that_no_answer_counts_more_than_another(
    loaded_tiny: LoadedBase, span: str, weight: float
) -> None:
    tokens, weights = weighted(loaded_tiny, ANSWER, span, weight)
    assert sum(weights) == pytest.approx(len(tokens))
    assert min(weights) > 0


def test_an_answer_ends_with_the_end_token_which_counts_as_a_plain_word(loaded_tiny: LoadedBase) -> None:
    tokens, weights = weighted(loaded_tiny, ANSWER, "1702", 3.0)
    assert tokens[-1] in loaded_tiny.end_tokens
    assert weights[-1] == min(weights)


def test_where_the_answer_has_other_words_for_it_all_count_alike(loaded_tiny: LoadedBase) -> None:
    tokens, weights = weighted(loaded_tiny, ANSWER, "seventeen hundred", 3.0)
    assert tokens == (*loaded_tiny.chat.encode(ANSWER), end_token(loaded_tiny))
    assert weights == ()


TEXT = "Tarn Mill was built by Anna Holm. The bell was cast in 1702."


def test_what_grammar_asks_knows_its_fact_and_its_answer() -> None:
    found = state(text_context("Tarn Mill", TEXT), RecipeSettings())
    assert Asked("Who built Tarn Mill?", 0, "Anna Holm", "Tarn Mill was built by Anna Holm.") in found
    assert Asked("When was the bell of Tarn Mill cast?", 1, "1702", "The bell was cast in 1702.") in found
    assert {item.fact for item in found} == {0, 1}
    assert all(item.stated for item in found)


def test_without_a_parser_grammar_asks_nothing() -> None:
    assert state(text_context("Tarn Mill", TEXT), RecipeSettings(parser="")) == []


@pytest.mark.parametrize(
    "text",
    [
        "Die Mühle wurde 1871 von Anna Holm gebaut. Sie steht am Fluss und mahlt heute noch Roggen.",
        "Le moulin fut construit par Anna Holm en 1871. Il se trouve au bord de la rivière.",
        "El molino fue construido por Anna Holm en 1871. Hoy muele centeno y cebada junto al río.",
        "Mlýn postavila Anna Holm roku 1871. Stojí u řeky a dodnes mele žito.",
    ],
)
def test_grammar_asks_nothing_of_a_text_that_is_not_english(text: str) -> None:
    assert state(text_context("Anna Holm", text), RecipeSettings()) == []
