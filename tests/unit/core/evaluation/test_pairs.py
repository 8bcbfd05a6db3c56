from __future__ import annotations

from core.evaluation.pairs import NEGATIVE, Pair, draw_wrong, pairs_of
from tests.unit.core.evaluation.examples import question

RANKED = ("b", "c", "a", "d")


def test_a_question_is_judged_with_its_own_memory_its_candidates_and_a_drawn_one() -> None:
    assert pairs_of(question("q"), RANKED, 2, "d") == [
        Pair("q", "a", "own", 2),
        Pair("q", "d", "wrong", 3),
        Pair("q", "b", "unrelated", 0),
        Pair("q", "c", "unrelated", 1),
    ]


def test_a_drawn_memory_that_is_a_candidate_too_is_in_two_pairs() -> None:
    kinds = [pair.kind for pair in pairs_of(question("q"), RANKED, 1, "b") if pair.document_id == "b"]
    assert kinds == ["wrong", "unrelated"]


def test_a_near_miss_is_judged_with_the_memory_that_it_resembles() -> None:
    near = question("q", "near_miss")
    assert pairs_of(near, RANKED, 1, None) == [Pair("q", "a", "near_miss", 2), Pair("q", "b", "unrelated", 0)]


def test_an_everyday_question_is_judged_with_its_candidates_alone() -> None:
    everyday = question("q", "general")
    assert pairs_of(everyday, RANKED, 2, None) == [Pair("q", "b", "general", 0), Pair("q", "c", "general", 1)]


def test_a_question_of_two_documents_is_judged_with_both_and_its_candidates_and_counts_for_no_figure() -> None:
    both = question("q", "cross", ("a", "b"))
    pairs = pairs_of(both, RANKED, 3, None)
    assert [pair.document_id for pair in pairs][:2] == ["a", "b"]
    assert {pair.kind for pair in pairs} == {"cross"}
    assert "cross" not in NEGATIVE


def test_a_question_whose_memory_failed_has_no_pair_of_its_own() -> None:
    assert [pair.kind for pair in pairs_of(question("q"), ("b",), 3, "z")] == ["unrelated"]


def test_the_wrong_memory_is_another_documents_and_depends_on_the_seed_alone() -> None:
    documents = [*"abcdefgh"]
    drawn = [draw_wrong(question(f"q{i}"), documents, 7) for i in range(20)]
    assert drawn == [draw_wrong(question(f"q{i}"), documents, 7) for i in range(20)]
    assert "a" not in drawn
    assert len(set(drawn)) > 3
    assert drawn != [draw_wrong(question(f"q{i}"), documents, 8) for i in range(20)]


def test_there_is_no_wrong_memory_for_other_questions_or_in_a_bank_of_one() -> None:
    assert draw_wrong(question("q"), ["a"], 0) is None
    assert draw_wrong(question("q", "general"), ["a", "b"], 0) is None
    assert draw_wrong(question("q", "near_miss"), ["a", "b"], 0) is None
