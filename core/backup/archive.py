"""Backup and restore of a whole LatentBank: the truth of one moment, and every object that it names.

The truth is copied first. Objects are written before the row that names them and never change, so all that the copied
rows name is there when the copying of objects begins; it stays for as long as the garbage margin, unless its memory is
deleted meanwhile. The other order would name objects that were written after theirs were copied.

DIRECTORY/truth.db or truth.dump   the truth
DIRECTORY/objects/…                the objects, as they are stored: sealed
DIRECTORY/catalogue.jsonl          what the truth's rows name
DIRECTORY/backup.json              written last: without it the backup is not whole
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import delete, select, update

from core.backup.names import Checked, Fault, Named, check, named, read_catalogue, write_catalogue
from core.backup.truth_copy import copied, put_back
from core.errors import Conflict, InvalidRequest, ObjectMissing, StorageError
from core.jobs.states import Released, State
from core.logs import get_logger
from core.storage.local import LocalStore
from core.storage.manifest import Manifest
from core.storage.object_store import ObjectStore
from core.storage.retries import retrying
from core.truth.database import Database
from core.truth.memories import delete_memory
from core.truth.postgresql import at_leisure
from core.truth.schema import schema_of, upgrade
from core.truth.tables import jobs, memories, workers
from core.truth.transitions import Move, apply

FORMAT = 1
_ABOUT = "backup.json"
_CATALOGUE = "catalogue.jsonl"
_OBJECTS = "objects"
_AT_ONCE = 8
_ATTEMPTS = 4
_BATCH = 256

_log = get_logger(__name__)
T = TypeVar("T")

Reading = Callable[[ObjectStore], ObjectStore]
"""The same objects as they are read: unsealed."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds. `began_at` is the truth's moment by the database's clock, ISO 8601: all that was
    acknowledged before it is in. `deleted_meanwhile` names memories that were deleted while objects were copied."""

    began_at: str
    revision: str
    truth: str
    truth_sha256: str
    memories: int
    objects: int
    bytes: int
    deleted_meanwhile: tuple[str, ...]
    format: int = FORMAT


def make_backup(database: Database, store: ObjectStore, reading: Reading, directory: Path) -> Backup:
    """Copies everything into `directory`; what an earlier run left there is used, and what nothing names removed.

    Raises `StorageError` where an object that a row names is missing or wrong; all others have been copied then.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _ABOUT).unlink(missing_ok=True)
    truth = directory / ("truth.db" if database.url.get_backend_name() == "sqlite" else "truth.dump")
    truth.unlink(missing_ok=True)
    schema = schema_of(database)
    with database.read() as connection:
        began_at = database.now(connection).isoformat()
    with copied(database, truth) as connection:
        count = write_catalogue(directory / _CATALOGUE, named(connection))
    kept = LocalStore((directory / _OBJECTS).absolute())
    kept_keys, wrong = _copy(store, kept, reading, read_catalogue(directory / _CATALOGUE))
    deleted = _deleted(database, read_catalogue(directory / _CATALOGUE))
    lost = [fault for fault in wrong if fault.memory_id not in deleted]
    if lost:
        raise StorageError(f"{len(lost)} objects are missing or wrong, the first {lost[0].key}: {lost[0].problem}")
    for found in list(kept.list("")):
        if found.key not in kept_keys:
            kept.delete(found.key)
    sizes = [found.size for found in kept.list("")]
    backup = Backup(
        began_at=began_at,
        revision=str(schema.current),
        truth=truth.name,
        truth_sha256=_sha256(truth),
        memories=count,
        objects=len(sizes),
        bytes=sum(sizes),
        deleted_meanwhile=tuple(sorted(deleted)),
    )
    (directory / _ABOUT).write_text(json.dumps(asdict(backup), indent=1) + "\n")
    return backup


def read_backup(directory: Path) -> Backup:
    """Raises `InvalidRequest` where there is no whole backup."""
    try:
        fields = json.loads((directory / _ABOUT).read_bytes())
        backup = Backup(**{**fields, "deleted_meanwhile": tuple(fields["deleted_meanwhile"])})
    except FileNotFoundError:
        raise InvalidRequest(
            f"{directory} holds no whole backup: there is no {_ABOUT}; run the backup again."
        ) from None
    except (ValueError, KeyError, TypeError) as problem:
        raise InvalidRequest(f"{directory / _ABOUT} can't be read: {problem}") from problem
    if backup.format != FORMAT:
        raise InvalidRequest(f"The backup has format {backup.format}; this LatentBank reads {FORMAT}.")
    if _sha256(directory / backup.truth) != backup.truth_sha256:
        raise InvalidRequest(f"{directory / backup.truth} is not the file that was written; take another backup.")
    return backup


def restore_backup(
    directory: Path, database: Database, store: ObjectStore, reading: Reading, deleted_since: Iterable[str] = ()
) -> Backup:
    """Puts everything back into an empty database and a store; may be run again where it broke off.

    Objects first, so that no row ever names what is not there. Jobs that were in work wait again, their attempts do not
    count; the workers of then are forgotten. `deleted_since` are ids of memories that were deleted after the backup:
    they are deleted again before anybody can ask for them. Raises `Conflict` where the database is not empty.
    """
    backup = read_backup(directory)
    kind = "sqlite" if backup.truth.endswith(".db") else "postgresql"
    if database.url.get_backend_name() != kind:
        raise Conflict(f"The backup is of {kind}; restore it into such a database.")
    kept = LocalStore((directory / _OBJECTS).absolute())
    _put_all(kept, store)
    put_back(directory / backup.truth, database)
    upgrade(database)
    _begin_again(database, {*backup.deleted_meanwhile, *deleted_since})
    wrong = [fault for checked in check_all(database, reading(store)) for fault in checked.faults]
    if wrong:
        raise StorageError(f"{len(wrong)} objects are missing or wrong, the first {wrong[0].key}: {wrong[0].problem}")
    return backup


def check_all(database: Database, store: ObjectStore) -> Iterator[Checked]:
    """Each memory that is not deleted, with what is wrong with its objects. `store` is as it is read."""
    with database.read() as connection, ThreadPoolExecutor(_AT_ONCE) as pool:
        at_leisure(connection)
        for batch in _batches(named(connection)):
            yield from pool.map(lambda each: check(store, each), batch)


def _copy(
    store: ObjectStore, kept: LocalStore, reading: Reading, catalogue: Iterable[Named]
) -> tuple[set[str], list[Fault]]:
    """Copies what is named; the keys of all of it that is there, and what is wrong, read back from the copy."""
    readable = reading(kept)

    def one(memory: Named) -> Checked:
        for key, _ in memory.contexts:
            _take(store, kept, key)
        if memory.manifest_key is not None:
            _take_adapter(store, kept, readable, memory.manifest_key)
        checked = check(readable, memory)
        for fault in checked.faults:
            kept.delete(fault.key)  # so that the next run copies it anew
        return checked

    keys: set[str] = set()
    wrong: list[Fault] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for batch in _batches(catalogue):
            for checked in pool.map(one, batch):
                keys.update(checked.keys)
                wrong.extend(checked.faults)
    return keys, wrong


def _take_adapter(store: ObjectStore, kept: LocalStore, readable: ObjectStore, key: str) -> None:
    _take(store, kept, key)
    try:
        manifest = Manifest.from_json(readable.get(key))
    except StorageError:
        return  # whoever verifies says so
    for file in manifest.files:
        _take(store, kept, manifest.key_of(file))


def _take(source: ObjectStore, target: ObjectStore, key: str) -> None:
    """Copies one object, sealed as it is, unless it is there already: under a key there is only ever one content."""
    if target.head(key) is not None:
        return
    try:
        data = retrying(lambda: source.get(key), attempts=_ATTEMPTS)
    except ObjectMissing:
        return  # whoever verifies says so
    retrying(lambda: target.put(key, data), attempts=_ATTEMPTS)


def _put_all(kept: LocalStore, store: ObjectStore) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for batch in _batches(kept.list("")):
            list(pool.map(lambda found: _take(kept, store, found.key), batch))


def _begin_again(database: Database, deleted: set[str]) -> None:
    with database.begin() as connection:
        connection.execute(delete(workers))
        # What was dispatched had its doorbell at a broker that is gone.
        connection.execute(update(jobs).where(jobs.c.state == State.QUEUED).values(rung_at=None))
        for row in connection.execute(select(jobs).where(jobs.c.state == State.RUNNING).order_by(jobs.c.id)).all():
            apply(connection, Move(row, Released(), "Restored from a backup; the job waits again."))
        gone = select(memories.c.id, memories.c.tenant_id).where(memories.c.id.in_(sorted(deleted)))
        for memory in connection.execute(gone.order_by(memories.c.id)).all():
            delete_memory(connection, memory.tenant_id, memory.id)


def _deleted(database: Database, catalogue: Iterable[Named]) -> set[str]:
    """Those that are deleted by now, or gone with their tenant, whether their objects could still be copied or not."""
    gone: set[str] = set()
    for batch in _batches(catalogue):
        there = memories.c.id.in_([each.memory_id for each in batch]) & (memories.c.status != "deleted")
        with database.read() as connection:
            gone |= {each.memory_id for each in batch} - set(
                connection.execute(select(memories.c.id).where(there)).scalars()
            )
    return gone


def _batches(each: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(each)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
