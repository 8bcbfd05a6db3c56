from __future__ import annotations

import pytest

from core.evaluation.figures import answer_figures, restraint_figures
from core.evaluation.records import Record
from tests.unit.core.evaluation.examples import record


def test_accuracy_and_f1_are_means_over_the_questions_of_documents() -> None:
    records = [
        record("1"),
        record("2", oracle="granite", routed="granite"),
        record("3", document="b", wrong_adapter="slate"),
        record("4", full_context="no idea"),
        record("5", role="general", no_memory="granite"),
        record("6", role="cross", oracle="granite"),
    ]
    figures = answer_figures(records, seed=0)
    assert figures["accuracy.oracle"].value == 0.75
    assert figures["accuracy.wrong_adapter"].value == 0.25
    assert figures["accuracy.no_memory"].value == 0.0
    assert figures["accuracy.full_context"].n == 4
    assert figures["f1.oracle"].value == 0.75
    assert figures["f1.full_context"].value == pytest.approx(3 * 0.5 / 4)


def test_retention_is_over_the_accuracy_with_the_text() -> None:
    records = [record("1"), record("2", full_context="no idea"), record("3", routed="granite"), record("4")]
    figures = answer_figures(records, seed=0)
    assert figures["retention.oracle"].value == pytest.approx(4 / 3)
    assert figures["retention.routed"].value == pytest.approx(3 / 3)
    low, high = figures["retention.oracle"].interval or (0, 0)
    assert low <= 4 / 3 <= high


def test_retention_is_not_defined_where_the_text_helps_nobody() -> None:
    figure = answer_figures([record("1", full_context="no idea")], seed=0)["retention.oracle"]
    assert (figure.value, figure.interval) == (None, None)


def test_a_document_without_a_memory_counts_as_wrong() -> None:
    assert answer_figures([record("1"), record("2", oracle="")], seed=0)["accuracy.oracle"].value == 0.5


def test_a_condition_that_was_never_asked_has_no_value() -> None:
    alone = record("1")
    without = Record(
        alone.question, {c: a for c, a in alone.answers.items() if c != "wrong_adapter"}, alone.candidates, alone.chosen
    )
    assert answer_figures([without], seed=0)["accuracy.wrong_adapter"].value is None


def test_routing_counts_the_own_memory_first_among_the_candidates_and_activated() -> None:
    records = [
        record("1"),
        record("2", candidates=("b", "a"), chosen=()),
        record("3", candidates=("b", "c"), chosen=("b",)),
        record("4", candidates=("b", "a"), chosen=("a",)),
    ]
    figures = answer_figures(records, seed=0)
    assert figures["routing.recall_at_1"].value == 0.25
    assert figures["routing.recall_at_k"].value == 0.75
    assert figures["routing.chosen_right"].value == 0.5
    assert figures["routing.chosen_right_when_active"].value == pytest.approx(2 / 3)


def test_false_activation_is_of_questions_that_no_memory_answers() -> None:
    records = [
        record("1"),
        record("2", role="near_miss", chosen=()),
        record("3", role="near_miss", chosen=("b",)),
        record("4", role="general", chosen=()),
        record("5", role="general", chosen=()),
    ]
    figures = restraint_figures(records, seed=0)
    assert figures["gate.false_activation_rate"].value == 0.25
    assert figures["gate.false_activation_near_miss"].value == 0.5
    assert figures["gate.false_activation_general"].value == 0.0
    assert figures["gate.false_activation_rate"].n == 4


def test_the_general_loss_is_in_points_of_accuracy() -> None:
    records = [
        record("1", role="general", no_memory="slate", routed="slate"),
        record("2", role="general", no_memory="slate", routed="granite"),
        record("3", role="general", no_memory="granite", routed="granite"),
        record("4", role="general", no_memory="slate", routed="slate"),
    ]
    assert restraint_figures(records, seed=0)["gate.general_loss_points"].value == 25.0


def test_a_suite_without_everyday_questions_has_no_general_loss() -> None:
    assert restraint_figures([record("1")], seed=0)["gate.general_loss_points"].value is None
