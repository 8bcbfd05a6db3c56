"""`latentbank backup`, `restore` and `verify`: the truth and the object store of the settings, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.output import console, print_json, size
from core.settings import Settings

if TYPE_CHECKING:
    from core.backup.names import Fault
    from core.storage.object_store import ObjectStore
    from core.truth.database import Database

_MOST_SHOWN = 20

Directory = Annotated[Path, typer.Argument(help="Where the backup is; the same again copies only what is new.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


def backup(directory: Directory, as_json: AsJson = False) -> None:
    """Copy the truth of this moment and every object that it names, while all processes go on."""
    from core.backup.archive import make_backup

    with _opened(Settings()) as (database, store, reading):
        made = make_backup(database, store, reading, directory)
    if as_json:
        print_json(asdict(made))
        return
    console().print(f"{made.memories} memories in {made.objects} objects, {size(made.bytes)}, as of {made.began_at}")
    console().print("The master key is not in it: keep that elsewhere, nothing can be read without it.")


def restore(
    directory: Directory,
    deleted: Annotated[
        Path | None, typer.Option("--deleted", help="A file of memory ids, one a line, that were deleted since.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup into an empty database and a store, and verify it; start the processes afterwards."""
    from core.backup.archive import restore_backup

    ids = deleted.read_text().split() if deleted is not None else []
    with _opened(Settings()) as (database, store, reading):
        found = restore_backup(directory, database, store, reading, ids)
    if as_json:
        print_json(asdict(found))
        return
    console().print(f"{found.memories} memories in {found.objects} objects are back, as of {found.began_at}")
    if deleted is None:
        console().print("What was deleted after that is here again; docs/operations.md says how to find it.")


def verify(as_json: AsJson = False) -> None:
    """Read every object that the truth names and compare digests; ends with 1 where one is missing or wrong."""
    from core.backup.archive import check_all
    from core.storage.keys import ROOT

    memories = 0
    faults: list[Fault] = []
    named: set[int] = set()
    with _opened(Settings()) as (database, store, reading):
        for checked in check_all(database, reading(store)):
            memories += 1
            faults.extend(checked.faults)
            named.update(map(hash, checked.keys))  # a few bytes each: a bank may have millions
        stored = [found.size for found in store.list(ROOT) if hash(found.key) not in named]
    if as_json:
        told = {"memories": memories, "objects": len(named), "unnamed": len(stored), "unnamed_bytes": sum(stored)}
        print_json({**told, "faults": [asdict(fault) for fault in faults]})
    else:
        out = console()
        out.print(f"{memories} memories, {len(named)} objects that they name")
        out.print(f"{len(stored)} objects that none names, {size(sum(stored))}: in work, or garbage to be collected")
        for fault in faults[:_MOST_SHOWN]:
            out.print(f"[red]✗[/] {fault.memory_id}: {fault.key}: {fault.problem}")
        out.print(f"{len(faults)} objects are missing or wrong" if faults else "[green]✓[/] all there and true")
    if faults:
        raise typer.Exit(1)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Database, ObjectStore, Callable[[ObjectStore], ObjectStore]]]:
    """The truth, the objects as they are stored, and how to read such objects."""
    from core.encryption.data_keys import DataKeys
    from core.encryption.master_keys import open_master_keys
    from core.encryption.sealed_store import SealedStore
    from core.storage.opening import open_store
    from core.truth.database import Database

    database, masters = Database(settings.resolved_database_url), open_master_keys(settings)
    try:
        keys = DataKeys(database, masters)
        yield database, open_store(settings), lambda store: SealedStore(store, keys)
    finally:
        database.dispose()
