from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidRequest
from core.evaluation.suite import draw, read_suite


def document(id_: str, **changes: Any) -> dict[str, Any]:
    asked = [{"q": f"What is in {id_}?", "answers": ["slate"], "type": "paraphrase"}]
    return {
        "id": id_,
        "kind": "town",
        "title": f"The town {id_}",
        "text": "It is built of slate.",
        "questions": asked,
        "near_miss": [{"q": f"Who founded {id_}?"}],
    } | changes


GENERAL = {"id": "g", "kind": "general", "title": None, "text": None, "questions": [{"q": "Sky?", "answers": ["blue"]}]}
CROSS = {
    "id": "x",
    "kind": "cross",
    "text": None,
    "questions": [{"q": "Which is older?", "answers": ["a"], "type": "cross", "documents": ["a", "b"]}],
}


def written(path: Path, *lines: Any) -> Path:
    file = path / "suite.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n\n")
    return file


def test_a_suite_has_documents_and_questions_of_four_roles(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path, document("a"), "", document("b"), GENERAL, CROSS))
    assert suite.name == "suite"
    assert [one.id for one in suite.documents] == ["a", "b"]
    assert [(q.id, q.role, q.type, q.documents) for q in suite.questions] == [
        ("a/0", "document", "paraphrase", ("a",)),
        ("a/near-0", "near_miss", "near_miss", ("a",)),
        ("b/0", "document", "paraphrase", ("b",)),
        ("b/near-0", "near_miss", "near_miss", ("b",)),
        ("g/0", "general", "general", ()),
        ("x/0", "cross", "cross", ("a", "b")),
    ]
    assert suite.questions[1].answers == ()


def test_a_suite_may_do_without_near_misses_and_types(tmp_path: Path) -> None:
    bare = {k: v for k, v in document("a", questions=[{"q": "What?", "answers": ["x"]}]).items() if k != "near_miss"}
    assert [q.type for q in read_suite(written(tmp_path, bare)).questions] == ["direct"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{not json", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        (document("b", title=""), "line 2: title"),
        (document("b", text=None), "line 2: text"),
        (document("a"), "line 2: id is 'a' as in line 1"),
        (document("b", questions={}), "line 2: questions has to be a list"),
        (document("b", questions=["What?"]), r"line 2: questions\[0\] has to be an object"),
        (document("b", questions=[{"q": " ", "answers": ["x"]}]), r"line 2: questions\[0\].q"),
        (document("b", questions=[{"q": "Q?", "answers": []}]), r"line 2: questions\[0\].answers"),
        (document("b", questions=[{"q": "Q?", "answers": [1]}]), r"line 2: questions\[0\].answers"),
        (document("b", questions=[{"q": "Q?", "answers": ["x"], "type": "general"}]), r"line 2: questions\[0\].type"),
        (document("b", near_miss=[{}]), r"line 2: near_miss\[0\].q"),
        (GENERAL | {"text": "words"}, "line 2: text has to be null"),
        (CROSS | {"questions": [{"q": "Q?", "answers": ["x"], "documents": ["a"]}]}, r"questions\[0\].documents"),
        (CROSS, "x/0 names 'b', which is no document"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_field(tmp_path: Path, line: Any, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        read_suite(written(tmp_path, document("a"), line))


def test_a_suite_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no document"):
        read_suite(written(tmp_path, GENERAL))


def test_a_suite_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="can't be read"):
        read_suite(tmp_path / "nowhere.jsonl")


def test_a_limit_draws_documents_by_the_seed_in_the_order_of_the_file(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path, *map(document, "abcdefh"), GENERAL, CROSS))
    drawn = draw(suite, 3, seed=1)
    ids = [one.id for one in drawn.documents]
    assert len(ids) == 3
    assert ids == sorted(ids)
    assert drawn == draw(suite, 3, seed=1)
    assert {tuple(one.id for one in draw(suite, 3, seed).documents) for seed in range(9)} != {tuple(ids)}


def test_a_limit_keeps_general_questions_and_drops_those_of_documents_that_are_left_out(tmp_path: Path) -> None:
    drawn = draw(read_suite(written(tmp_path, *map(document, "abcd"), GENERAL, CROSS)), 1, seed=0)
    (kept,) = drawn.documents
    assert [q.role for q in drawn.questions] == ["document", "near_miss", "general"]
    assert all(q.documents in ((kept.id,), ()) for q in drawn.questions)


def test_no_limit_and_one_that_is_no_limit_keep_the_suite(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path, document("a"), document("b")))
    assert draw(suite, None, 0) is suite
    assert draw(suite, 2, 0) is suite
