"""`latentbank remember`: a file or standard input becomes a memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from core.cli.client import Json, open_api
from core.cli.output import console, print_json, size
from core.cli.progress import Watched, watch_jobs, why
from core.errors import EmptyContext, InvalidRequest, NotUtf8
from core.settings import Settings


def remember(
    file: Annotated[str, typer.Argument(help="A text file, a JSON file with chat messages, or - for standard input.")],
    title: Annotated[str | None, typer.Option(help="What it is called; default: the file's name.")] = None,
    collection: Annotated[str | None, typer.Option(help="The collection it belongs to.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--meta", help="KEY=VALUE, as often as needed.")] = None,
    update: Annotated[str | None, typer.Option(metavar="MEMORY_ID", help="Make it that memory's new version.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Makes a repeated call return the first one's.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the memory is ready.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the memory as JSON.")] = False,
) -> None:
    """Distil a text or a chat into a memory, and show the progress until it is ready.

    With --update the memory serves its old version until then; its title stays, unless --title or a chat names another.
    """
    if update and collection:
        raise InvalidRequest("A memory stays in its collection; leave --collection out with --update.")
    fields = context_of(_read(file), title or ("" if update else _title_of(file)))
    name = fields["title"] or _title_of(file)
    if not fields["title"]:
        del fields["title"]
    if collection:
        fields["collection"] = collection
    if metadata:
        fields["metadata"] = dict(_pair(text) for text in metadata)
    progress = console(stderr=as_json)
    with open_api(Settings()) as api:
        memory = api.update(update, fields, idempotency_key) if update else api.remember(fields, idempotency_key)
        if wait:
            (job,) = watch_jobs([Watched(api, memory["job_id"], name)], progress)
            if job["status"] != "succeeded":
                what = "new version" if update else "memory"
                progress.print(f"[red]The {what} did not come about:[/] {escape(why(job))}")
                raise typer.Exit(1)
            memory = api.memory(memory["id"])
    if as_json:
        print_json(memory)
    else:
        _tell(memory)


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


def _looks_like_chat(parsed: Any) -> bool:
    return bool(isinstance(parsed, list) and parsed and all(isinstance(m, dict) and "role" in m for m in parsed))


def _parsed(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as problem:
        raise InvalidRequest(f"{file} can't be read: {problem.strerror or problem}") from problem


def _title_of(file: str) -> str:
    return "Standard input" if file == "-" else Path(file).stem.replace("_", " ").replace("-", " ").strip() or file


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidRequest(f"--meta takes KEY=VALUE, not {text!r}.")
    return key, value


def _tell(memory: Json) -> None:
    out = console()
    held = f", {size(memory.get('bytes'))}" if memory.get("bytes") else ""
    out.print(f"[bold]{escape(memory['title'])}[/] is {memory['status']}: {memory['id']}{held}")
