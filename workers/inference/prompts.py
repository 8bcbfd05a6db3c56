"""What a request's text is for the engine and for retrieval: pure."""

from __future__ import annotations

from collections.abc import Sequence

from core.base_model.chat import Prompt


def split_prompt(ids: Sequence[int], activation: Sequence[int]) -> Prompt:
    """Plain token ids, split where PEFT would activate an adapter: at the last occurrence of `activation`.

    Without one, adapters act from the last token on, so that the first answer token is theirs.
    """
    width = len(activation)
    for start in range(len(ids) - width, -1, -1):
        if tuple(ids[start : start + width]) == tuple(activation):
            return Prompt(tuple(ids[:start]), tuple(ids[start:]))
    return Prompt(tuple(ids[:-1]), tuple(ids[-1:]))


def retrieval_query(asked: object) -> str:
    """What retrieval looks for: the last user message, or the whole of a plain prompt."""
    if isinstance(asked, str):
        return asked
    assert isinstance(asked, Sequence)
    users = [message["content"] for message in asked if message["role"] == "user"]
    return users[-1] if users else ""
