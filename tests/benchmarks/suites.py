"""Documents with questions about them, from a suite or from `examples/`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.evaluation.suite import Suite, draw, read_suite
from workers.distillation.trainer.contexts import chat_context

EXAMPLES = Path(__file__).parents[2] / "examples"
DEVELOPMENT_SUITE = Path(__file__).parents[3] / "shared" / "data" / "dev.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """An answer to `text` is right if one of `accepted` occurs in it."""

    text: str
    accepted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """What is distilled, and what is asked about it afterwards."""

    title: str
    text: str
    questions: tuple[Question, ...]


def documents_of(suite: Path | None, limit: int, only: str | None = None) -> list[Document]:
    """The first `limit` documents of a suite, of those whose ids `only` names, with commas, if given.

    Without a suite, of the development suite, or of `examples/`.
    """
    path = suite or DEVELOPMENT_SUITE
    if suite is None and not path.exists():
        return _examples()[:limit]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = [line for line in lines if line.get("text") and (not only or line["id"] in only.split(","))]
    return [_document(line["title"], line["text"], line["questions"], "answers") for line in chosen[:limit]]


def chosen_of(path: Path, only: str | None, limit: int | None) -> Suite:
    """The documents of a suite whose ids `only` names, with commas, or `limit` drawn with the seed 0."""
    suite = read_suite(path)
    if not only:
        return draw(suite, limit, 0)
    chosen = set(only.split(","))
    documents = tuple(document for document in suite.documents if document.id in chosen)
    questions = tuple(question for question in suite.questions if chosen.issuperset(question.documents))
    return Suite(suite.name, documents, questions)


def _examples() -> list[Document]:
    memories = json.loads((EXAMPLES / "demo.json").read_text(encoding="utf-8"))["memories"]
    return [_document(m["title"], _text(EXAMPLES / m["file"]), m["questions"], "accepted") for m in memories]


def _text(file: Path) -> str:
    if file.suffix != ".json":
        return file.read_text(encoding="utf-8")
    chat = json.loads(file.read_text(encoding="utf-8"))
    return chat_context(chat["title"], [(m["role"], m["content"]) for m in chat["messages"]]).text


def _document(title: str, text: str, questions: list[dict[str, Any]], accepted: str) -> Document:
    return Document(title, text, tuple(Question(q["q"], tuple(q[accepted])) for q in questions))
