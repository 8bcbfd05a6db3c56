"""A context as self-study reads it: a text, its facts one by one, and windows that fit beside a question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.contexts import transcript
from core.errors import EmptyContext
from core.retrieval.entries import sentences_of
from workers.distillation.trainer.grammar.parser import is_english, load_parser
from workers.distillation.trainer.grammar.topic import topic_of
from workers.distillation.trainer.names import names_of
from workers.distillation.trainer.speech import facts_of
from workers.distillation.trainer.transcripts import is_user, transcript_of

WINDOW_WORDS = 260
OVERLAP_SENTENCES = 2


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence, and the number of the window that it stands in."""

    text: str
    window: int


@dataclass(frozen=True, slots=True)
class Context:
    """`text` is the whole; `windows` are parts of it that overlap, one if it is short. `topic` is what the text calls
    its subject, in fewer words than the title."""

    title: str
    topic: str
    text: str
    windows: tuple[str, ...]
    facts: tuple[Fact, ...]


def read_context(path: Path, title: str, parser: str = "") -> Context:
    """Reads a context object; raises `EmptyContext` where there is nothing to learn in it.

    With `parser`, the reference of one, what is said in an English chat becomes facts in the third person.
    """
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields["kind"] == "chat":
        return chat_context(title, [(str(m["role"]), str(m["content"])) for m in fields["messages"]], parser)
    return text_context(title, str(fields["text"]), parser)


def text_context(title: str, text: str, parser: str = "") -> Context:
    """A text as facts; one that is the transcript of a chat as a chat."""
    turns = transcript_of(text)
    if turns is not None and parser and is_english(text):
        return _spoken(title, text, turns, parser)
    sentences = sentences_of(text)
    return _context(title, topic_of(title, text), text, sentences, sentences)


def chat_context(title: str, messages: Sequence[tuple[str, str]], parser: str = "") -> Context:
    """A chat; the teacher reads its transcript, which says who said what."""
    spoken = [(role, content.strip()) for role, content in messages if content.strip()]
    text = transcript(spoken)
    if parser and is_english(text):
        return _spoken(title, text, spoken, parser)
    facts = [sentence for _, content in spoken for sentence in sentences_of(content)]
    return _context(title, topic_of(title, text), text, facts, facts)


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


def _spoken(title: str, text: str, turns: Sequence[tuple[str, str]], parser: str) -> Context:
    """What was said, as facts that stand alone; its topic is the user, where the chat says who that is."""
    parse = load_parser(parser)
    names = names_of(turns, title, parse)
    user = next((name for label, name in names.items() if is_user(label) and name[:1].isupper()), None)
    sentences = [sentence for _, content in turns for sentence in sentences_of(content)]
    return _context(title, user or topic_of(title, text), text, sentences, facts_of(turns, title, parse))


def _context(title: str, topic: str, text: str, sentences: Sequence[str], facts: Sequence[str]) -> Context:
    """`facts` are the sentences, or were made of them in their order."""
    if not sentences or not facts:
        raise EmptyContext()
    ranges = windows_of(sentences)
    # A short text keeps its own layout; windows are put together from sentences.
    windows = (text,) if len(ranges) == 1 else tuple(" ".join(sentences[start:end]) for start, end in ranges)

    def window(fact: int) -> int:
        sentence = fact * len(sentences) // len(facts)
        return next(w for w, (start, end) in enumerate(ranges) if start <= sentence < end)

    return Context(title, topic, text, windows, tuple(Fact(fact, window(i)) for i, fact in enumerate(facts)))
