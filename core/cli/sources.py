"""What `latentbank remember` is given, as contexts: a file, standard input, a folder of files, a JSONL file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import EmptyContext, InvalidRequest, LatentBankError, NotUtf8

JSONL = ".jsonl"
KEY_PREFIX = "remember"
MOST_BYTES = 4 * 1024 * 1024
"""Of a file of a folder, and of a request: what is longer is no context of any base, or none that is sent at once."""


@dataclass(frozen=True, slots=True)
class Item:
    """A context as `POST /v1/memories/batch` takes it, in JSON, and where it was read: a path, or `path:line`."""

    place: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Unfit:
    """What was read at `place` and can't be sent, and why."""

    place: str
    problem: LatentBankError


@dataclass(frozen=True, slots=True)
class Common:
    """What holds for all contexts of a call where they don't say otherwise; `key_prefix` begins their keys."""

    collection: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    key_prefix: str = KEY_PREFIX


def holds_many(file: str) -> bool:
    return file != "-" and (Path(file).suffix == JSONL or Path(file).is_dir())


def read_many(file: str, common: Common) -> Iterator[Item | Unfit]:
    """The contexts of a JSONL file, or of all files in and below a folder, by name; hidden ones are left out.

    The idempotency key of each, unless its line names one, is made of all that is sent, so that the same context has
    the same key wherever it is found again.
    """
    root = Path(file)
    unreadable: list[OSError] = []
    for path in _files(root, unreadable.append) if root.is_dir() else [root]:
        try:
            yield from _lines(path, common) if path.suffix == JSONL else [_whole(path, common)]
        except OSError as problem:
            yield _unreadable(path, problem)
    yield from (_unreadable(Path(problem.filename), problem) for problem in unreadable)


def read(file: str) -> bytes:
    """A file, or standard input for `-`. Raises `InvalidRequest` where it can't be read."""
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as problem:
        raise InvalidRequest(f"{file} can't be read: {problem.strerror or problem}") from problem


def title_of(file: str) -> str:
    return "Standard input" if file == "-" else Path(file).stem.replace("_", " ").replace("-", " ").strip() or file


def shown(path: Path) -> str:
    """The path as text, also where its bytes are none."""
    return os.fsencode(path).decode(errors="replace")


def context_of(content: bytes, title: str) -> dict[str, Any]:
    """`{title, text}` or, for JSON with chat messages, `{title, messages}`.

    A chat is a list of `{role, content}`, or an object with such a list as `messages` and perhaps a `title`; a context
    of an export is taken as what it was. Raises
    `NotUtf8`, `EmptyContext`, `InvalidRequest`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise NotUtf8(f"The text is not valid UTF-8 (byte {wrong.start}); convert it first.") from wrong
    if not text.strip():
        raise EmptyContext("There is nothing in it to remember.")
    parsed = _parsed(text)
    if isinstance(parsed, dict) and "messages" in parsed:
        title, parsed = str(parsed.get("title") or title), parsed["messages"]
    if isinstance(parsed, dict) and parsed.keys() == {"kind", "title", "text"}:
        # A context as an export has it.
        return {"title": str(parsed["title"]), "text": str(parsed["text"])}
    if not _looks_like_chat(parsed):
        return {"title": title, "text": text}
    messages = [{"role": str(m.get("role", "")), "content": str(m.get("content", ""))} for m in parsed]
    if not all(message["role"] and message["content"] for message in messages):
        raise InvalidRequest("Each message of a chat needs a role and a content.")
    return {"title": title, "messages": messages}


def _files(folder: Path, unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))


def _whole(path: Path, common: Common) -> Item | Unfit:
    """A file that is one context. Raises `OSError`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest("It is no regular file; leave it out.")
        if found.st_size > MOST_BYTES:
            raise InvalidRequest(f"It is larger than {MOST_BYTES} bytes; split it into several files.")
        return _item(shown(path), context_of(path.read_bytes(), title_of(shown(path))), common)
    except LatentBankError as problem:
        return Unfit(shown(path), problem)


def _lines(path: Path, common: Common) -> Iterator[Item | Unfit]:
    """Each line an object with the fields of a memory; without a title it is called after the file and the line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _line(f"{shown(path)}:{number}", line, f"{title_of(shown(path))} {number}", common)


def _line(place: str, line: bytes, title: str, common: Common) -> Item | Unfit:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as wrong:
        return Unfit(place, NotUtf8(f"The line is not valid UTF-8 (byte {wrong.start}); convert the file first."))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        wanted = "an object with 'text' or 'messages', and perhaps 'title', 'collection' and 'metadata'"
        return Unfit(place, InvalidRequest(f"The line is no JSON object; each line is {wanted}."))
    return _item(place, {"title": title, **fields}, common)


def _item(place: str, fields: dict[str, Any], common: Common) -> Item | Unfit:
    if common.collection is not None:
        fields.setdefault("collection", common.collection)
    own = fields.get("metadata", {})
    if common.metadata and isinstance(own, dict):
        fields["metadata"] = {**common.metadata, **own}
    try:
        if fields.get("idempotency_key") is None:
            digest = hashlib.sha256(_json(fields, sort_keys=True)).hexdigest()
            fields["idempotency_key"] = f"{common.key_prefix}-{digest}"
        return Item(place, _json(fields))
    except (ValueError, RecursionError):
        # Half a surrogate pair, NaN, infinities, a thousand levels: no JSON has them.
        return Unfit(place, InvalidRequest("It has characters or numbers that JSON in UTF-8 can't say; mend it."))


def _json(fields: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys).encode()


def _looks_like_chat(parsed: Any) -> bool:
    return bool(isinstance(parsed, list) and parsed and all(isinstance(m, dict) and "role" in m for m in parsed))


def _parsed(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unreadable(path: Path, problem: OSError) -> Unfit:
    return Unfit(shown(path), InvalidRequest(f"It can't be read: {problem.strerror or problem}"))
