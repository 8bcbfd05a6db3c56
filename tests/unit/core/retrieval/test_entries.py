from __future__ import annotations

from core.retrieval.entries import MAX_WORDS, entries_of, sentences_of


def test_entries_are_title_sentences_pairs_and_questions() -> None:
    assert entries_of("Orsk", "It rains. It snows. It thaws.", ["When does it rain?"]) == [
        "Orsk",
        "It rains.",
        "It snows.",
        "It thaws.",
        "It rains. It snows.",
        "It snows. It thaws.",
        "When does it rain?",
    ]


def test_repetitions_are_indexed_once() -> None:
    assert entries_of("Orsk", "Orsk\n\nORSK", ["orsk ", "Why?", " "]) == ["Orsk", "Orsk ORSK", "Why?"]


def test_abbreviations_and_numbers_end_no_sentence() -> None:
    text = "Dr. Smith paid 3.5 euros to J. Doe of the U.S. Army. He left."
    assert sentences_of(text) == ["Dr. Smith paid 3.5 euros to J. Doe of the U.S. Army.", "He left."]


def test_quotes_and_brackets_stay_with_their_sentence() -> None:
    assert sentences_of('He ran! (Why?) "No." Then he left.') == ["He ran!", "(Why?)", '"No."', "Then he left."]


def test_hard_wrapped_lines_are_joined_but_headings_and_items_are_not() -> None:
    text = "# The town\nIt lies on\nthe coast.\n- item one\n- item two\n\nlast"
    assert sentences_of(text) == ["The town", "It lies on the coast.", "item one", "item two", "last"]


def test_a_sentence_too_long_for_the_encoder_is_indexed_in_overlapping_windows() -> None:
    text = " ".join(str(i) for i in range(2 * MAX_WORDS))
    windows = [window.split() for window in sentences_of(text)]
    assert all(len(window) <= MAX_WORDS for window in windows)
    assert {word for window in windows for word in window} == set(text.split())
    assert windows[1][0] == str(MAX_WORDS // 2)


def test_an_empty_text_has_no_sentences() -> None:
    assert sentences_of(" \n ") == []
    assert entries_of("", "", []) == []


def test_text_without_spaces_after_its_full_stops_has_no_empty_sentence() -> None:
    assert sentences_of("这座磨坊建于1702年。它属于市政府。") == ["这座磨坊建于1702年。", "它属于市政府。"]
