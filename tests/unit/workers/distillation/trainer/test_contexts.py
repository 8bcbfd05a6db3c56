from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from core.errors import EmptyContext
from workers.distillation.trainer.contexts import chat_context, read_context, text_context, windows_of


def test_a_short_text_is_one_window_with_its_own_layout() -> None:
    context = text_context("Title", "First thing here.\n\nSecond thing there.")
    assert context.windows == ("First thing here.\n\nSecond thing there.",)
    assert [fact.text for fact in context.facts] == ["First thing here.", "Second thing there."]


def test_a_long_text_is_cut_into_windows_that_overlap_and_cover_everything() -> None:
    sentences = [f"Sentence number {i} says a thing or two about it." for i in range(100)]
    ranges = windows_of(sentences, words=60)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 100
    assert all(later[0] < earlier[1] for earlier, later in pairwise(ranges))


def test_one_sentence_longer_than_a_window_is_a_window() -> None:
    assert windows_of(["word " * 500, "next"], words=50) == [(0, 1), (1, 2)]


def test_every_fact_stands_in_its_window() -> None:
    context = text_context("Title", " ".join(f"Fact {i} is written down here today." for i in range(120)))
    assert len(context.windows) > 1
    assert all(fact.text in context.windows[fact.window] for fact in context.facts)


def test_a_chats_transcript_says_who_spoke_and_its_facts_are_what_was_said() -> None:
    context = chat_context("Plans", [("user", "I moved to Riga. I play the harp."), ("assistant", "Noted.")])
    assert context.text == "The user: I moved to Riga. I play the harp.\nThe assistant: Noted."
    assert context.facts[1].text == "I play the harp."


def test_a_context_object_is_read_by_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps({"kind": "chat", "title": "T", "messages": [{"role": "user", "content": "Hi there."}]}))
    assert read_context(path, "T").text == "The user: Hi there."


def test_a_context_without_words_is_refused() -> None:
    with pytest.raises(EmptyContext):
        text_context("Title", " \n ")
