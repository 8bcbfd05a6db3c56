"""A context object as the text that the base reads: in distillation, and where a memory serves from its text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from core.errors import ObjectCorrupt

_SPEAKERS = {"user": "The user", "assistant": "The assistant", "system": "The system"}


def text_of(payload: bytes) -> str:
    """The text of a context object, of a chat its transcript. Raises `ObjectCorrupt` where it is none."""
    try:
        fields = json.loads(payload)
        if fields["kind"] == "chat":
            return transcript([(str(m["role"]), str(m["content"])) for m in fields["messages"]])
        return str(fields["text"])
    except (ValueError, KeyError, TypeError) as problem:
        raise ObjectCorrupt("The context's object holds no context.") from problem


def transcript(messages: Sequence[tuple[str, str]]) -> str:
    """A chat of `(role, content)`, a line for each message that says something, and who said it."""
    spoken = [(role, content.strip()) for role, content in messages]
    return "\n".join(f"{_speaker(role)}: {content}" for role, content in spoken if content)


def _speaker(role: str) -> str:
    return _SPEAKERS.get(role, role.capitalize())
