"""Which objects the rows of a truth name: what has to be there for every memory to serve and every job to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from core.errors import ObjectCorrupt, StorageError
from core.jobs.states import OPEN
from core.storage.manifest import Manifest, describe_file
from core.storage.object_store import ObjectStore
from core.storage.publication import read_manifest
from core.truth.tables import jobs, memories, revisions

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Named:
    """What a row says of one memory's objects: its contexts with their SHA-256 in hex, and its adapter's manifest."""

    memory_id: str
    contexts: tuple[tuple[str, str], ...]
    manifest_key: str | None = None
    adapter_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """An object that a row names, and what is wrong with it."""

    memory_id: str
    key: str
    problem: str


@dataclass(frozen=True, slots=True)
class Checked:
    """One memory: the keys of all of its objects, as far as its manifest can be read, and what is wrong with them."""

    memory: Named
    keys: tuple[str, ...]
    faults: tuple[Fault, ...]


def named(connection: Connection) -> Iterator[Named]:
    """Of every memory that is not deleted, by id. Rows are streamed: a bank may have millions."""
    revised = (
        select(jobs.c.memory_id, revisions.c.context_key, revisions.c.context_sha256)
        .join(revisions, revisions.c.job_id == jobs.c.id)
        .where(jobs.c.state.in_(OPEN))
        .order_by(jobs.c.memory_id)
    )
    waiting: dict[str, list[tuple[str, str]]] = {}
    for row in connection.execute(revised):
        waiting.setdefault(row.memory_id, []).append((row.context_key, row.context_sha256))
    columns = ("id", "context_key", "context_sha256", "manifest_key", "adapter_digest")
    query = (
        select(*(memories.c[name] for name in columns)).where(memories.c.status != "deleted").order_by(memories.c.id)
    )
    for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query):
        contexts = dict([(row.context_key, row.context_sha256), *waiting.get(row.id, ())])
        yield Named(row.id, tuple(contexts.items()), row.manifest_key, row.adapter_digest)


def check(store: ObjectStore, memory: Named) -> Checked:
    """Reads every byte of the memory's objects."""
    found = [each for key, sha256 in memory.contexts if (each := _context_fault(store, memory, key, sha256))]
    keys = [key for key, _ in memory.contexts]
    if memory.manifest_key is not None:
        keys.append(memory.manifest_key)
        for checked in _adapter(store, memory, memory.manifest_key):
            if isinstance(checked, Fault):
                found.append(checked)
            else:
                keys.extend(checked.key_of(file) for file in checked.files)
    return Checked(memory, tuple(keys), tuple(found))


def _adapter(store: ObjectStore, memory: Named, manifest_key: str) -> Iterator[Fault | Manifest]:
    try:
        manifest = read_manifest(store, manifest_key)
        if manifest.adapter_digest != memory.adapter_digest:
            raise ObjectCorrupt("The manifest is of another adapter than the row's.")
    except StorageError as problem:
        yield Fault(memory.memory_id, manifest_key, problem.message)
        return
    yield manifest
    for file in manifest.files:
        key = manifest.key_of(file)
        try:
            if describe_file(file.name, store.get(key)) != file:
                raise ObjectCorrupt("Its bytes are not the ones that the manifest names.")
        except StorageError as problem:
            yield Fault(memory.memory_id, key, problem.message)


def write_catalogue(path: Path, memories: Iterable[Named]) -> int:
    """One line of JSON a memory; how many."""
    count = 0
    with path.open("w") as file:
        for memory in memories:
            file.write(json.dumps(asdict(memory)) + "\n")
            count += 1
    return count


def read_catalogue(path: Path) -> Iterator[Named]:
    with path.open() as file:
        for line in file:
            fields = json.loads(line)
            yield Named(**{**fields, "contexts": tuple(tuple(pair) for pair in fields["contexts"])})


def _context_fault(store: ObjectStore, memory: Named, key: str, sha256: str) -> Fault | None:
    try:
        if hashlib.sha256(store.get(key)).hexdigest() == sha256.removeprefix("sha256:"):
            return None
    except StorageError as problem:
        return Fault(memory.memory_id, key, problem.message)
    return Fault(memory.memory_id, key, "Its bytes are not the ones that were sent.")
