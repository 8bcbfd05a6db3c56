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


def test_a_chats_transcript_says_who_spoke_and_without_a_parser_its_facts_are_what_was_said() -> None:
    context = chat_context("Plans", [("user", "I moved to Riga. I play the harp."), ("assistant", "Noted.")])
    assert context.text == "The user: I moved to Riga. I play the harp.\nThe assistant: Noted."
    assert [fact.text for fact in context.facts] == ["I moved to Riga.", "I play the harp.", "Noted."]
    assert context.topic == "Plans"


CHAT = [
    ("user", "Hello! I'm Rosalind Oake and I moved to Riga in 2019."),
    ("assistant", "Nice to meet you, Rosalind! Do you have a pet?"),
    ("user", "Yes, a parrot. I play the harp and my sister lives in Oslo."),
    ("assistant", " "),
    ("assistant", "Noted!"),
]


def test_with_a_parser_a_chats_facts_are_in_the_third_person_and_the_user_is_its_topic(parser: str) -> None:
    context = chat_context("Chat", CHAT, parser)
    assert [fact.text for fact in context.facts] == [
        "The user is Rosalind Oake and Rosalind Oake moved to Riga in 2019.",
        'Asked "Do you have a pet?", Rosalind Oake said: Yes, a parrot.',
        "Rosalind Oake plays the harp and Rosalind Oake's sister lives in Oslo.",
    ]
    assert context.topic == "Rosalind Oake"


def test_the_teacher_reads_a_chat_as_it_was_said(parser: str) -> None:
    context = chat_context("Chat", CHAT, parser)
    assert context.text == chat_context("Chat", CHAT).text
    assert context.text.endswith("\nThe assistant: Noted!")
    assert context.windows == (context.text,)


def test_a_chat_of_a_user_without_a_name_is_about_its_title(parser: str) -> None:
    context = chat_context("Boat plans", [("user", "I own a canoe."), ("assistant", "It sounds old.")], parser)
    assert context.topic == "Boat plans"
    assert context.facts[0].text == "The user owns a canoe."


def test_a_chat_that_is_not_english_stays_as_it_was_said(parser: str) -> None:
    chat = [("user", "Hallo! Ich bin nach Riga gezogen. Dort spiele ich seit Jahren jeden Abend die Harfe.")]
    context = chat_context("Chat with Rosalind Oake", chat, parser)
    assert context == chat_context("Chat with Rosalind Oake", chat)
    assert [fact.text for fact in context.facts][:2] == ["Hallo!", "Ich bin nach Riga gezogen."]
    transcript = "User: Hallo! Wo ist der Schlüssel?\nAssistant: Ich sehe ihn.\nUser: Danke. I hob di gern!"
    assert text_context("Chat with Rosalind Oake", transcript, parser).facts[0].text == "User: Hallo!"


TRANSCRIPT = """User: I'm Rosalind Oake and I moved to Riga.
Assistant: Noted! Shall I remember it?
User: Yes. I play the harp in the evening."""


def test_a_text_that_is_a_transcript_is_read_as_a_chat_where_there_is_a_parser(parser: str) -> None:
    context = text_context("Call", TRANSCRIPT, parser)
    assert [fact.text for fact in context.facts] == [
        "The user is Rosalind Oake and Rosalind Oake moved to Riga.",
        'Asked "Shall I remember it?", Rosalind Oake said: Yes.',
        "Rosalind Oake plays the harp in the evening.",
    ]
    assert context.topic == "Rosalind Oake"
    assert (context.text, context.windows) == (TRANSCRIPT, (TRANSCRIPT,))


def test_without_a_parser_a_transcript_is_a_text_like_any_other() -> None:
    context = text_context("Call", TRANSCRIPT)
    assert [fact.text for fact in context.facts][:2] == [
        "User: I'm Rosalind Oake and I moved to Riga.",
        "Assistant: Noted!",
    ]
    assert context.topic == "Call"


def test_a_parser_changes_nothing_about_a_text_that_is_no_transcript(parser: str) -> None:
    text = "The Sorrel lamp glows. I like it. You turn it on with the knob."
    context = text_context("The Sorrel Lamp: Manual", text, parser)
    assert context == text_context("The Sorrel Lamp: Manual", text)
    assert [fact.text for fact in context.facts] == [
        "The Sorrel lamp glows.",
        "I like it.",
        "You turn it on with the knob.",
    ]
    assert context.topic == "the Sorrel Lamp"


def test_every_fact_of_a_long_chat_stands_in_its_window(parser: str) -> None:
    said = [f"I own a boat called Number{i} that I bought in the year {1900 + i} in a small town." for i in range(60)]
    context = chat_context("Chat with Rosalind Oake", [("user", words) for words in said], parser)
    assert len(context.windows) > 1
    assert len(context.facts) == 60
    assert context.facts[7].text == (
        "Rosalind Oake owns a boat called Number7 that Rosalind Oake bought in the year 1907 in a small town."
    )
    assert all(f"Number{i} " in context.windows[fact.window] for i, fact in enumerate(context.facts))


def test_a_chat_of_nothing_but_courtesies_holds_no_facts(parser: str) -> None:
    with pytest.raises(EmptyContext):
        chat_context("Chat", [("user", "Hi there!"), ("assistant", "Hello! How can I help?")], parser)


def test_a_context_object_is_read_by_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps({"kind": "chat", "title": "T", "messages": [{"role": "user", "content": "Hi there."}]}))
    assert read_context(path, "T").text == "The user: Hi there."
    path.write_text(json.dumps({"kind": "text", "title": "T", "text": "It rains."}))
    assert read_context(path, "T").text == "It rains."


def test_a_context_object_of_a_chat_is_read_with_the_parser_that_is_named(tmp_path: Path, parser: str) -> None:
    path = tmp_path / "context.json"
    messages = [{"role": "user", "content": "I play the harp."}]
    path.write_text(json.dumps({"kind": "chat", "title": "T", "messages": messages}))
    assert [fact.text for fact in read_context(path, "T").facts] == ["I play the harp."]
    assert [fact.text for fact in read_context(path, "T", parser).facts] == ["The user plays the harp."]


def test_a_context_without_words_is_refused() -> None:
    with pytest.raises(EmptyContext):
        text_context("Title", " \n ")
