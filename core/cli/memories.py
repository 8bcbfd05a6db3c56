"""`latentbank memories`, `latentbank forget` and `latentbank deletion`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from core.cli.client import open_api
from core.cli.output import console, print_json, size, table, when
from core.errors import InvalidRequest
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
    memory_id: Annotated[str | None, typer.Argument(help="The memory's id.")] = None,
    collection: Annotated[str | None, typer.Option(help="Instead of one: all memories of this collection.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was deleted as JSON; does not ask back.")] = False,
) -> None:
    """Delete a memory, or a whole collection: from index, slots, caches, rows and the object store."""
    with open_api(Settings()) as api:
        if memory_id is not None and collection is None:
            what = memory_id
            if not (yes or as_json):
                typer.confirm(f"Forget {api.memory(memory_id)['title']!r} for good?", abort=True)
            gone = api.forget(memory_id)
        elif collection is not None and memory_id is None:
            what = f"The collection {collection!r}"
            if not (yes or as_json):
                typer.confirm(f"Forget all memories of {collection!r} for good?", abort=True)
            gone = api.forget_collection(collection)
        else:
            raise InvalidRequest("Name a memory's id, or a --collection.")
    if as_json:
        print_json(gone)
    else:
        deletion = gone.get("deletion_id") or gone["id"]
        told = f"{what} is forgotten; its bytes follow within minutes (latentbank deletion {deletion})."
        console().print(told, markup=False)


def deletion(
    deletion_id: Annotated[str, typer.Argument(help="The deletion's id, which forget has told.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how far something is forgotten, step by step."""
    with open_api(Settings()) as api:
        found = api.deletion(deletion_id)
    if as_json:
        print_json(found)
        return
    shown = table("step", "when")
    for step in ("deleted_at", "tombstoned_at", "drained_at", "purged_at", "attested_at"):
        shown.add_row(step.removesuffix("_at"), when(found[step]))
    console().print(shown)
