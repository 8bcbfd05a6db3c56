"""What of a memory is indexed: short texts that a question may come close to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

MAX_WORDS = 80
"""A longer sentence is indexed in windows; the encoder reads 256 tokens and one vector can't hold more anyway."""

_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_a-z])|[。！？]+\s*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|No|Nr|vs|cf|ca|approx|Fig|Inc|Ltd|Co|e\.g|i\.e|[A-Z]\.[A-Z])\.$"
)
_MARKUP = re.compile(r"^\s*(?:#{1,6}\s+|[-*+•]\s+|>\s+)")


def entries_of(title: str, text: str, questions: Sequence[str]) -> list[str]:
    """The entries of a memory, without repetitions: title, sentences, pairs of neighbours, self-study questions.

    Held-out questions must not be among `questions`, or calibration would meet its own index.
    """
    sentences = sentences_of(text)
    pairs = [f"{first} {second}" for first, second in pairwise(sentences)]
    return _distinct([title, *sentences, *pairs, *questions])


def sentences_of(text: str) -> list[str]:
    """The sentences of `text` in order; a line break that a sentence runs across is no boundary, a heading is."""
    pieces = [piece for line in _lines(text) for sentence in _split(line) for piece in _windows(sentence.split())]
    return [piece for piece in pieces if piece]


def _lines(text: str) -> list[str]:
    """Lines, where hard-wrapped ones are joined: the next line goes on in lower case after no full stop."""
    joined: list[str] = []
    open_line = False
    for raw in text.splitlines():
        line = _MARKUP.sub("", raw).strip()
        if line and open_line and line == raw.strip() and (line[0].islower() or joined[-1][-1] in ",;-–"):
            joined[-1] = f"{joined[-1]} {line}"
        elif line:
            joined.append(line)
        open_line = bool(line) and line[-1] not in ".!?…:。！？"
    return joined


def _split(line: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(line):
        if not _ABBREVIATION.search(line[start : end.end()].rstrip()):
            sentences.append(line[start : end.end()].strip())
            start = end.end()
    return [*sentences, line[start:].strip()]


def _windows(words: Sequence[str]) -> list[str]:
    if len(words) <= MAX_WORDS:
        return [" ".join(words)]
    step = MAX_WORDS // 2
    return [" ".join(words[start : start + MAX_WORDS]) for start in range(0, len(words) - step, step)]


def _distinct(texts: Iterable[str]) -> list[str]:
    kept: dict[str, str] = {}
    for text in texts:
        clean = " ".join(text.split())
        if clean:
            kept.setdefault(clean.casefold(), clean)
    return list(kept.values())
