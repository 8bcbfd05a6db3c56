from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.cli import sources
from core.cli.sources import Common, Item, Unfit, holds_many, read_many


def read(path: Path, common: Common | None = None) -> list[Item | Unfit]:
    return list(read_many(str(path), common or Common()))


def fields(one: Item | Unfit) -> dict[str, Any]:
    assert isinstance(one, Item), one
    return dict(json.loads(one.body))


def test_a_folder_and_a_jsonl_file_hold_many_and_everything_else_one(tmp_path: Path) -> None:
    assert holds_many(str(tmp_path))
    assert holds_many("notes.jsonl")
    assert not any(holds_many(one) for one in ("-", "notes.txt", "notes.json"))


def test_the_files_of_a_folder_are_contexts_in_the_order_of_their_names_and_hidden_ones_are_left_out(
    tmp_path: Path,
) -> None:
    for name in ("b/deep/the-town.txt", "a.txt", ".hidden", ".git/config", "b/lines.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Saltmere is a town.")
    (tmp_path / "b/lines.jsonl").write_text('{"text": "One."}\n')
    found = read(tmp_path)
    assert [one.place for one in found] == [
        str(tmp_path / name) for name in ("a.txt", "b/lines.jsonl:1", "b/deep/the-town.txt")
    ]
    assert [fields(one)["title"] for one in found] == ["a", "lines 1", "the town"]


def test_what_can_not_be_sent_is_told_with_its_place_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Saltmere is a town.")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "c.txt").write_text(" \n")
    os.mkfifo(tmp_path / "d")
    with (tmp_path / "e.txt").open("wb") as file:
        file.truncate(sources.MOST_BYTES + 1)
    (tmp_path / "f.txt").symlink_to("nowhere")
    (tmp_path / "g.txt").write_text("Saltmere is a harbour.")
    found = {Path(one.place).name: one for one in read(tmp_path)}
    problems = {name: one.problem.message for name, one in found.items() if isinstance(one, Unfit)}
    assert list(found) == ["a.txt", "b.png", "c.txt", "d", "e.txt", "f.txt", "g.txt"]
    assert list(problems) == ["b.png", "c.txt", "d", "e.txt", "f.txt"]
    assert "not valid UTF-8" in problems["b.png"]
    assert "split it" in problems["e.txt"]


def test_a_line_is_a_memory_and_one_that_is_none_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    talk = [{"role": "user", "content": "Hello."}]
    lines: list[bytes] = [
        json.dumps({"title": "A", "text": "x", "collection": "own", "metadata": {"n": 1}}).encode(),
        b"",
        json.dumps({"messages": talk}).encode(),
        b"[1, 2]",
        b'{"text": "cut off',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": "x", "metadata": {"n": NaN}}',
        b'{"text": "x", "metadata": {"n": 1' + b"0" * 5000 + b"}}",
        b'{"text":' + b"[" * 100_000,
        b'{"text": "\xc3\xa9"}',
    ]
    path.write_bytes(b"\n".join(lines))
    found = read(path, Common("shared", {"source": "web"}))
    assert [one.place for one in found if isinstance(one, Unfit)] == [f"{path}:{n}" for n in range(4, 11)]
    first, second, last = (fields(one) for one in found if isinstance(one, Item))
    assert (first["collection"], first["metadata"]) == ("own", {"source": "web", "n": 1})
    assert (second["title"], second["messages"]) == ("many 3", talk)
    assert (last["collection"], last["metadata"], last["text"]) == ("shared", {"source": "web"}, "é")


def test_the_same_context_has_the_same_key_wherever_it_is_and_another_one_another(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name, text in (("a.txt", "x"), ("one/a.txt", "x"), ("b.txt", "x"), ("one/b.txt", "y")):
        (tmp_path / name).write_text(text)
    keys = {one.place: fields(one)["idempotency_key"] for one in read(tmp_path)}
    assert keys[str(tmp_path / "a.txt")] == keys[str(tmp_path / "one/a.txt")]
    assert len(set(keys.values())) == 3
    anew = [fields(one)["idempotency_key"] for one in read(tmp_path, Common(key_prefix="second"))]
    assert all(key.startswith("second-") and len(key) < 100 for key in anew)
    (tmp_path / "own.jsonl").write_text('{"text": "x", "idempotency_key": "mine"}\n')
    assert [fields(one)["idempotency_key"] for one in read(tmp_path / "own.jsonl")] == ["mine"]


def test_what_can_not_be_read_is_told_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed/a.txt", "open/b.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("Saltmere is a town.")
    (tmp_path / "lost.jsonl").symlink_to("nowhere")
    scan = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    # Permissions alone keep nothing from root.
    monkeypatch.setattr(os, "scandir", scandir)
    found = read(tmp_path)
    assert sorted(one.place for one in found if isinstance(one, Unfit)) == [
        str(tmp_path / "closed"),
        str(tmp_path / "lost.jsonl"),
    ]
    assert [one.place for one in found if isinstance(one, Item)] == [str(tmp_path / "open/b.txt")]
    (alone,) = read(tmp_path / "none.jsonl")
    assert isinstance(alone, Unfit)
    assert alone.problem.message == "It can't be read: No such file or directory"
