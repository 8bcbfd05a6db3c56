from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from core.evaluation.scoring import normalise
from core.evaluation.suite import read_suite

FILE = Path(__file__).parents[2] / "benchmarks" / "dev-cross.jsonl"


def the_line() -> dict[str, Any]:
    (line,) = FILE.read_text(encoding="utf-8").splitlines()
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_each_question_needs_two_different_documents_of_the_development_suite() -> None:
    for question in the_line()["questions"]:
        first, second = question["documents"]
        assert first != second, question["q"]
        assert all(re.fullmatch(r"dev-\d{3}", id_) for id_ in (first, second)), question["q"]


def test_each_question_is_asked_once_and_has_answers_that_can_be_found() -> None:
    questions = the_line()["questions"]
    assert len({question["q"] for question in questions}) == len(questions) == 24
    for question in questions:
        assert question["answers"], question["q"]
        assert all(normalise(answer) for answer in question["answers"]), question["q"]


def test_the_line_is_read_as_cross_questions_after_the_documents_that_it_names(tmp_path: Path) -> None:
    named = sorted({id_ for question in the_line()["questions"] for id_ in question["documents"]})
    documents = [{"id": id_, "kind": "town", "title": id_, "text": "A text.", "questions": []} for id_ in named]
    suite = tmp_path / "suite.jsonl"
    lines = [*map(json.dumps, documents), FILE.read_text(encoding="utf-8")]
    suite.write_text("\n".join(lines), encoding="utf-8")
    assert [question.role for question in read_suite(suite).questions] == ["cross"] * 24
