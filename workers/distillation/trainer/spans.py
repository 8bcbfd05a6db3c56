"""What a sentence tells, piece by piece: the spans that questions are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from workers.distillation.trainer.questions import FUNCTION_WORDS, content_words

Kind = Literal["number", "name", "phrase"]

MAX_SPAN_WORDS = 5

_EDGE = "\"'“”‘’()[].,;:!?"
_CLOSES = ",;.:!?)"
_CLAUSE_END = re.compile(r"[,;:.!?](?=\s)")
_YEAR = re.compile(r"^(?:1[0-9]|20)\d\d$")
_UNIT = re.compile(r"^[^\W\d_]+$")
_MONTHS_AND_DAYS = (
    "january february march april may june july august september october november december monday tuesday "
    "wednesday thursday friday saturday sunday "
)
_DATES = frozenset(_MONTHS_AND_DAYS.split())
_JOINS = frozenset({"of", "de", "von", "van", "the", "and", "&"})


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a sentence that could be an answer."""

    text: str
    kind: Kind


def spans_of(sentence: str, title: str) -> list[Span]:
    """Numbers with their units, names, and the last words of each clause; without repetitions or the title itself."""
    tokens = sentence.split()
    subject = content_words(title)
    kept: list[Span] = []
    seen: set[str] = set()
    for span in [*_numbers(tokens), *_names(tokens), *_tails(tokens)]:
        words = content_words(span.text)
        if not words or words <= subject or words <= seen or (span.kind == "phrase" and words & seen):
            continue
        kept.append(span)
        seen |= words
    return kept


def up_to(sentence: str, span: str) -> str:
    """The sentence up to the end of the clause that holds `span`: what answers a question for it, and no more."""
    at = sentence.find(span)
    end = _CLAUSE_END.search(sentence, at + len(span)) if at >= 0 else None
    return sentence if end is None else sentence[: end.start()] + "."


def gap_question(sentence: str, span: Span, title: str) -> str | None:
    """The sentence as a question with a question word in the span's place: plain, but right for every sentence."""
    told = up_to(sentence, span.text)
    if told.count(span.text) != 1 or not content_words(told) - content_words(span.text):
        return None
    return f"{title}: {told.replace(span.text, _question_word(span)).rstrip('.!?;:, ')}?"


def _question_word(span: Span) -> str:
    if span.kind == "name":
        return "who or what"
    if span.kind == "phrase":
        return "what"
    first, _, unit = span.text.partition(" ")
    if unit and first[:1].isdigit():
        return f"how many {unit}"
    return "what year" if _YEAR.match(first) else "what"


def _numbers(tokens: list[str]) -> list[Span]:
    """`8,412 inhabitants`, `06:40`, `March 2024`, `ZK-440`."""
    spans: list[Span] = []
    for i, token in enumerate(tokens):
        if not any(c.isdigit() for c in token):
            continue
        words = [token.strip(_EDGE)]
        if i and tokens[i - 1].casefold() in _DATES:
            words.insert(0, tokens[i - 1])
        following = tokens[i + 1].strip(_EDGE) if i + 1 < len(tokens) else ""
        unit = _UNIT.match(following) and following.islower() and following not in FUNCTION_WORDS
        if token[-1] not in _CLOSES and unit:
            words.append(following)
        spans.append(Span(" ".join(words), "number"))
    return spans


def _names(tokens: list[str]) -> list[Span]:
    """Runs of capitalised words, `of` and the like between them; not the word that merely begins the sentence."""
    spans: list[Span] = []
    run: list[str] = []
    for i, token in enumerate(tokens):
        word = token.strip(_EDGE)
        named = _is_name(word) and (i > 0 or (len(tokens) > 1 and _is_name(tokens[1].strip(_EDGE))))
        joins = bool(run) and word in _JOINS and any(_is_name(t.strip(_EDGE)) for t in tokens[i + 1 : i + 2])
        if named or joins:
            run.append(word)
        if run and (not (named or joins) or token[-1] in _CLOSES or i == len(tokens) - 1):
            spans.append(Span(" ".join(run), "name"))
            run = []
    return [span for span in spans if len(span.text) > 1 and len(span.text.split()) <= MAX_SPAN_WORDS + 1]


def _is_name(word: str) -> bool:
    return word[:1].isupper() and word.casefold() not in FUNCTION_WORDS


def _tails(tokens: list[str]) -> list[Span]:
    """The last words of each clause, back to a function word."""
    spans: list[Span] = []
    tail: list[str] = []
    for i, token in enumerate(tokens):
        word = token.strip(_EDGE)
        if word.casefold() in FUNCTION_WORDS:
            tail = []
            continue
        tail.append(word)
        if token[-1] in _CLOSES or i == len(tokens) - 1:
            if len(tail) > 1 or (len(word) > 2 and not word.endswith(("ed", "ing", "ly"))):
                spans.append(Span(" ".join(tail[-MAX_SPAN_WORDS:]), "phrase"))
            tail = []
    return spans
