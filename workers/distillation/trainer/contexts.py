"""A context as self-study reads it: a text, its facts one by one, and windows that fit beside a question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import EmptyContext
from core.retrieval.entries import sentences_of

WINDOW_WORDS = 260
OVERLAP_SENTENCES = 2


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence, and the number of the window that it stands in."""

    text: str
    window: int


@dataclass(frozen=True, slots=True)
class Context:
    """`text` is the whole; `windows` are parts of it that overlap, one if it is short."""

    title: str
    text: str
    windows: tuple[str, ...]
    facts: tuple[Fact, ...]


def read_context(path: Path, title: str) -> Context:
    """Reads a context object; raises `EmptyContext` where there is nothing to learn in it."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields["kind"] == "chat":
        return chat_context(title, [(str(m["role"]), str(m["content"])) for m in fields["messages"]])
    return text_context(title, str(fields["text"]))


def text_context(title: str, text: str) -> Context:
    return _context(title, text, sentences_of(text))


def chat_context(title: str, messages: Sequence[tuple[str, str]]) -> Context:
    """A transcript; each sentence is a fact. Who said it stands in the transcript, which the teacher reads."""
    spoken = [(_speaker(role), content.strip()) for role, content in messages if content.strip()]
    transcript = "\n".join(f"{who}: {content}" for who, content in spoken)
    facts = [sentence for _, content in spoken for sentence in sentences_of(content)]
    return _context(title, transcript, facts)


def windows_of(sentences: Sequence[str], words: int = WINDOW_WORDS) -> list[tuple[int, int]]:
    """Ranges of sentences of about `words` words; neighbours share `OVERLAP_SENTENCES`."""
    ranges: list[tuple[int, int]] = []
    start = 0
    while start < len(sentences):
        end, size = start, 0
        while end < len(sentences) and (end == start or size + len(sentences[end].split()) <= words):
            size += len(sentences[end].split())
            end += 1
        ranges.append((start, end))
        if end == len(sentences):
            break
        start = max(start + 1, end - OVERLAP_SENTENCES)
    return ranges


def _context(title: str, text: str, sentences: Sequence[str]) -> Context:
    if not sentences:
        raise EmptyContext()
    ranges = windows_of(sentences)
    # A short text keeps its own layout; windows are put together from sentences.
    windows = (text,) if len(ranges) == 1 else tuple(" ".join(sentences[start:end]) for start, end in ranges)
    facts = [
        Fact(sentence, next(w for w, (start, end) in enumerate(ranges) if start <= i < end))
        for i, sentence in enumerate(sentences)
    ]
    return Context(title, text, windows, tuple(facts))


def _speaker(role: str) -> str:
    return {"user": "The user", "assistant": "The assistant", "system": "The system"}.get(role, role.capitalize())
