"""Suites: documents with questions, read from JSON Lines and checked before anything is made of them.

    {"id", "kind", "title", "text", "questions": [{"q", "answers": […], "type"}], "near_miss": [{"q"}]}

A line of kind `general` has no text: its questions are of everyday knowledge, and no document answers them. A line of
kind `cross` has no text either: each of its questions names in `documents` the two that are needed for the answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import InvalidRequest

Role = Literal["document", "near_miss", "general", "cross"]

_WITHOUT_TEXT: tuple[Role, ...] = ("general", "cross")


@dataclass(frozen=True, slots=True)
class Question:
    """`documents` are those that hold the answer; of a near miss the one that it resembles, of a general one none.

    `type` is the suite's word (`direct`, `paraphrase`, `multi`, …); `answers` are all accepted ones, none for a near
    miss.
    """

    id: str
    role: Role
    type: str
    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A context to distil; `kind` is the suite's word, such as `town` or `chat`."""

    id: str
    kind: str
    title: str
    text: str

    @property
    def words(self) -> int:
        return len(self.text.split())


@dataclass(frozen=True, slots=True)
class Suite:
    """Documents in the order of the file, and all questions."""

    name: str
    documents: tuple[Document, ...]
    questions: tuple[Question, ...]


def read_suite(path: Path) -> Suite:
    """Reads and checks a suite. Raises `InvalidRequest`, with line and field, where it can't be used."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as problem:
        raise InvalidRequest(f"{path} can't be read: {problem.strerror or problem}") from problem
    except UnicodeDecodeError as wrong:
        raise InvalidRequest(f"{path} is not valid UTF-8 (byte {wrong.start}).") from wrong
    documents: dict[str, Document] = {}
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _Entry(f"{path.name}, line {number}", line)
        if entry.id in seen:
            raise entry.wrong("id", f"is {entry.id!r} as in line {seen[entry.id]}; ids are unique")
        seen[entry.id] = number
        if entry.kind not in _WITHOUT_TEXT:
            documents[entry.id] = entry.document()
        questions.extend(entry.questions())
    if not documents:
        raise InvalidRequest(f"{path.name} has no document.")
    _check_references(path.name, questions, documents)
    return Suite(path.stem, tuple(documents.values()), tuple(questions))


def draw(suite: Suite, limit: int | None, seed: int) -> Suite:
    """`limit` documents drawn with `seed`, in the order of the file, with the questions that they leave possible."""
    if limit is None or limit >= len(suite.documents):
        return suite
    chosen = set(random.Random(seed).sample([document.id for document in suite.documents], max(1, limit)))  # nosec B311
    return Suite(
        suite.name,
        tuple(document for document in suite.documents if document.id in chosen),
        tuple(question for question in suite.questions if chosen.issuperset(question.documents)),
    )


def _check_references(name: str, questions: Collection[Question], documents: Mapping[str, Document]) -> None:
    for question in questions:
        for id_ in question.documents:
            if id_ not in documents:
                raise InvalidRequest(f"{name}: the question {question.id} names {id_!r}, which is no document of it.")


class _Entry:
    """One line, read field by field; every error names the line and the field."""

    def __init__(self, at: str, line: str) -> None:
        self._at = at
        try:
            fields = json.loads(line)
        except ValueError as problem:
            raise InvalidRequest(f"{at} is not JSON: {problem}") from problem
        if not isinstance(fields, dict):
            raise InvalidRequest(f"{at} is not a JSON object.")
        self._fields: dict[str, Any] = fields
        self.id = self._text(fields, "id")
        self.kind = self._text(fields, "kind")

    def wrong(self, field: str, what: str) -> InvalidRequest:
        return InvalidRequest(f"{self._at}: {field} {what}.", param=field)

    def document(self) -> Document:
        return Document(self.id, self.kind, self._text(self._fields, "title"), self._text(self._fields, "text"))

    def questions(self) -> list[Question]:
        asked = self._list(self._fields, "questions")
        near = self._list(self._fields, "near_miss") if "near_miss" in self._fields else []
        if self.kind in _WITHOUT_TEXT:
            if self._fields.get("text") is not None:
                raise self.wrong("text", f"has to be null in a line of kind {self.kind}")
            if near:
                raise self.wrong("near_miss", f"has no meaning in a line of kind {self.kind}")
        return [
            *(self._question(i, fields) for i, fields in enumerate(asked)),
            *(self._near_miss(i, fields) for i, fields in enumerate(near)),
        ]

    def _question(self, number: int, fields: Any) -> Question:
        at = f"questions[{number}]"
        fields = self._object(fields, at)
        answers = self._texts(fields, "answers", at)
        type_ = self._text(fields, "type", at) if "type" in fields else "direct"
        role: Role = "general" if self.kind == "general" else "cross" if self.kind == "cross" else "document"
        if role == "document" and type_ in _WITHOUT_TEXT:
            raise self.wrong(f"{at}.type", f"is {type_!r}, which belongs into a line of kind {type_}")
        documents = {"document": (self.id,), "general": ()}.get(role)
        if documents is None:
            documents = self._texts(fields, "documents", at)
            if len(set(documents)) < 2:
                raise self.wrong(f"{at}.documents", "has to name two documents")
        text = self._text(fields, "q", at)
        return Question(f"{self.id}/{number}", role, type_ if role == "document" else role, text, answers, documents)

    def _near_miss(self, number: int, fields: Any) -> Question:
        at = f"near_miss[{number}]"
        text = self._text(self._object(fields, at), "q", at)
        return Question(f"{self.id}/near-{number}", "near_miss", "near_miss", text, (), (self.id,))

    def _object(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(at, "has to be an object")
        return value

    def _list(self, fields: Mapping[str, Any], name: str) -> list[Any]:
        value = fields.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "has to be a list")
        return value

    def _text(self, fields: Mapping[str, Any], name: str, at: str = "") -> str:
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"{at}.{name}" if at else name, "has to be text that is not empty")
        return value

    def _texts(self, fields: Mapping[str, Any], name: str, at: str) -> tuple[str, ...]:
        value = fields.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
            raise self.wrong(f"{at}.{name}", "has to be a list of texts, at least one")
        return tuple(value)
