"""`latentbank memories` and `latentbank forget`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from core.cli.client import open_api
from core.cli.output import console, print_json, size, table, when
from core.settings import Settings


def memories(
    collection: Annotated[str | None, typer.Option(help="Only the memories of this collection.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as a JSON list.")] = False,
) -> None:
    """List the memories of the bank."""
    with open_api(Settings()) as api:
        found = api.memories(collection)
    if as_json:
        print_json(found)
        return
    out = console()
    if not found:
        out.print("No memories yet; make one with: latentbank remember FILE")
        return
    shown = table("id", "title", "collection", "status", "version", "size", "made")
    for memory in found:
        shown.add_row(
            memory["id"],
            escape(memory["title"]),
            escape(memory["collection"]),
            memory["status"],
            str(memory.get("version") or "–"),
            size(memory.get("bytes")),
            when(memory.get("created_at")),
        )
    out.print(shown)


def forget(
    memory_id: Annotated[str, typer.Argument(help="The memory's id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was deleted as JSON; does not ask back.")] = False,
) -> None:
    """Delete a memory: from index, slots, caches and the object store."""
    with open_api(Settings()) as api:
        if not (yes or as_json):
            typer.confirm(f"Forget {api.memory(memory_id)['title']!r} for good?", abort=True)
        gone = api.forget(memory_id)
    if as_json:
        print_json(gone)
    else:
        console().print(f"{memory_id} is forgotten; its bytes follow within minutes.")
