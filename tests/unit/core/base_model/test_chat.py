from __future__ import annotations

import pytest

from core.base_model.chat import about, with_text
from core.base_model.loading import LoadedBase
from core.errors import InvalidRequest

TEXT = "Velmora is a town."


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_one_question_with_a_text_is_the_message_that_memories_are_taught_by(loaded_tiny: LoadedBase) -> None:
    assert with_text(TEXT, [said("user", "Where?")]) == [said("user", about(TEXT, "Where?"))]
    asked = loaded_tiny.chat.prompt([said("user", about(TEXT, "Where?"))])
    assert loaded_tiny.chat.ask_about(TEXT, "Where?") == asked


def test_in_a_chat_the_text_comes_first_and_the_last_question_asks_about_it() -> None:
    chat = [said("system", "Be kind."), said("user", "Hi"), said("assistant", "Hello"), said("user", "Where?")]
    placed = with_text(TEXT, chat)
    assert [one["content"] for one in placed] == [
        "Be kind.",
        f"{TEXT}\n\nHi",
        "Hello",
        "Using the text above, answer briefly: Where?",
    ]
    assert chat[1] == said("user", "Hi")


def test_questions_about_one_text_begin_with_the_same_tokens(loaded_tiny: LoadedBase) -> None:
    first, second = (loaded_tiny.chat.ask_about(TEXT, question).prefix for question in ("Where?", "Who is it?"))
    common = next(i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    assert TEXT in loaded_tiny.chat.decode(first[:common])


def test_where_the_user_says_nothing_there_is_nothing_to_answer() -> None:
    with pytest.raises(InvalidRequest):
        with_text(TEXT, [said("system", "Be kind.")])
