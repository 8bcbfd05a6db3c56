from __future__ import annotations

from workers.distillation.trainer.spans import Span, spans_of, up_to


def test_numbers_keep_their_unit_and_their_month() -> None:
    spans = spans_of("It has 8,412 inhabitants and was launched in March 2024.", "Port Veldane")
    assert Span("8,412 inhabitants", "number") in spans
    assert Span("March 2024", "number") in spans


def test_names_are_runs_of_capitals_across_small_words() -> None:
    spans = spans_of("Each year the town holds the Night of Kites with Odrin Pell.", "Varrow")
    assert Span("Night of Kites", "name") in spans
    assert Span("Odrin Pell", "name") in spans


def test_the_title_itself_is_not_asked_for() -> None:
    assert all(span.text != "Varrow Quay" for span in spans_of("Varrow Quay is a harbour town.", "Varrow Quay"))


def test_a_clause_without_names_or_numbers_gives_its_last_words() -> None:
    assert spans_of("The handle is made of walnut wood.", "Kettle") == [Span("walnut wood", "phrase")]


def test_a_sentence_of_function_words_gives_nothing() -> None:
    assert spans_of("It was so that they were.", "Title") == []


def test_a_sentence_is_told_up_to_the_end_of_the_spans_clause() -> None:
    sentence = "It was founded in 1683 by Odrin Pell, whose statue stands in 8,412 places."
    assert up_to(sentence, "Odrin Pell") == "It was founded in 1683 by Odrin Pell."
    assert up_to(sentence, "8,412 places") == sentence
    assert up_to(sentence, "not there") == sentence
