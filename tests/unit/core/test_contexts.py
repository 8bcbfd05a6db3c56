from __future__ import annotations

import json

import pytest

from core.contexts import text_of, transcript
from core.errors import ObjectCorrupt


def test_a_text_is_read_as_it_was_sent() -> None:
    assert text_of(json.dumps({"kind": "text", "title": "T", "text": " One.\n\nTwo. "}).encode()) == " One.\n\nTwo. "


def test_a_chat_is_read_as_its_transcript() -> None:
    messages = [
        {"role": "user", "content": " Hi. "},
        {"role": "tool", "content": "x"},
        {"role": "system", "content": " "},
    ]
    assert text_of(json.dumps({"kind": "chat", "messages": messages}).encode()) == "The user: Hi.\nTool: x"
    assert transcript([("assistant", "Yes.")]) == "The assistant: Yes."


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{}", b'{"kind": "chat", "messages": [1]}'])
def test_what_is_no_context_is_corrupt(payload: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        text_of(payload)
