"""All of a tenant's data as one tar, made while it is sent: nothing of it is held but one object at a time.

    export.json                        format, tenant, time
    tenant.json, keys/1.jsonl          settings; the keys' names and scopes
    memories/<id>/memory.json          as the API shows it
    memories/<id>/context.json         decrypted, byte for byte what `context_sha256` names
    memories/<id>/adapter/…            the published version as PEFT has it, with its manifest
    memories/<id>/jobs.jsonl, events.jsonl, revisions/<job>.json
    deletions/1.jsonl…, audit/1.jsonl…   newest first
    complete.json                      the last one: how many there are, what is lacking, the SHA-256 of all before it

It has the memories that there were when it began. Each is true in itself, as of when its turn came; what is deleted
meanwhile is in it as deleted, or not at all. Whoever has no `complete.json` has no export.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection

from core.errors import ObjectCorrupt, ObjectMissing, Unavailable
from core.export import COMPLETE, FORMAT
from core.storage.object_store import ObjectStore
from core.storage.publication import read_manifest
from core.storage.retries import retrying
from core.truth import api_keys, audit, deletions, jobs, memories, revisions, tenants
from core.truth.database import Database
from core.truth.records import Job, Memory
from gateway import views

_PAGE = 100
_LINES = 1000
"""In one file of a long list."""
_ATTEMPTS = 4

Pages = Callable[[Connection, Any], list[Any]]
"""A page of a list after an item, or from its beginning."""


@dataclass(slots=True)
class Export:
    """One export; `stopping` cuts it off, so that its reader sees a broken answer."""

    database: Database
    store: ObjectStore
    tenant_id: str
    stopping: Callable[[], bool]
    _at: datetime | None = field(default=None, init=False)
    _sha256: Any = field(default_factory=hashlib.sha256, init=False)
    _files: int = field(default=0, init=False)
    _lacking: list[dict[str, str]] = field(default_factory=list, init=False)
    _memories: int = field(default=0, init=False)

    def tar(self) -> Iterator[bytes]:
        """The tar, in parts. Raises `NotFound` where the tenant is deleted, also on the way; `Unavailable` where the
        process is told to stop; what the store raises beside missing objects."""
        with self.database.read() as connection:
            tenant = tenants.get_tenant(connection, self.tenant_id)
            self._at = self.database.now(connection)
            newest = memories.list_memories(connection, self.tenant_id, limit=_PAGE, include_deleted=True)
        head = {"format": FORMAT, "tenant_id": tenant.id, "exported_at": views.seconds(self._at)}
        yield from self._file("export.json", _json(head))
        yield from self._file("tenant.json", _json(views.tenant_object(tenant)))
        yield from self._list("keys", _keys(tenant.id), partial(views.key_object, now=self._at))
        page = newest
        while page:
            for memory in page:
                yield from self._memory(memory)
            with self.database.read() as connection:
                tenants.get_tenant(connection, self.tenant_id)
                page = memories.list_memories(
                    connection, self.tenant_id, after=page[-1].id, limit=_PAGE, include_deleted=True
                )
        yield from self._list("deletions", _deletions(tenant.id), views.deletion_object)
        yield from self._list("audit", _audit(tenant.id), views.audit_object)
        complete = {"memories": self._memories, "files": self._files, "lacking": self._lacking}
        yield from self._file(COMPLETE, _json(complete | {"sha256": self._sha256.hexdigest()}))
        yield b"\0" * (2 * tarfile.BLOCKSIZE)

    def _memory(self, listed: Memory) -> Iterator[bytes]:
        """As it is now, not as it was when it was listed."""
        folder = f"memories/{listed.id}"
        with self.database.read() as connection:
            memory = memories.get_memory(connection, self.tenant_id, listed.id)
            found = _jobs_of(connection, memory)
            now = self.database.now(connection)
            wishes = revisions.revised_fields(connection, [job.id for job in found if job.finished_at is None])
        shown = views.memory_object(memory, found[0].id if found else None).model_dump()
        yield from self._file(f"{folder}/memory.json", _json(shown | {"context_sha256": memory.context_sha256}))
        yield from self._file(f"{folder}/jobs.jsonl", _jsonl(views.job_object(job, now) for job in found))
        yield from self._file(f"{folder}/events.jsonl", self._events(found))
        self._memories += 1
        if memory.status == "deleted":
            return
        yield from self._object(f"{folder}/context.json", memory.context_key, memory)
        for job_id, wish in wishes.items():
            if wish["context_key"] != memory.context_key:
                yield from self._object(f"{folder}/revisions/{job_id}.json", wish["context_key"], memory)
        if memory.manifest_key is not None:
            yield from self._adapter(f"{folder}/adapter", memory.manifest_key, memory)

    def _adapter(self, folder: str, manifest_key: str, memory: Memory) -> Iterator[bytes]:
        try:
            manifest = retrying(lambda: read_manifest(self.store, manifest_key), attempts=_ATTEMPTS)
        except (ObjectMissing, ObjectCorrupt) as problem:
            self._note(f"{folder}/manifest.json", problem.code, memory)
            return
        yield from self._file(f"{folder}/manifest.json", manifest.to_json().encode())
        for one in manifest.files:
            yield from self._object(f"{folder}/{one.name}", manifest.key_of(one), memory)

    def _object(self, name: str, key: str, memory: Memory) -> Iterator[bytes]:
        """An object that is lost, or can't be opened any more, is named as lacking: the rest is worth having."""
        try:
            data = retrying(lambda: self.store.get(key), attempts=_ATTEMPTS)
        except (ObjectMissing, ObjectCorrupt) as problem:
            self._note(name, problem.code, memory)
            return
        yield from self._file(name, data)

    def _note(self, name: str, code: str, memory: Memory) -> None:
        with self.database.read() as connection:
            if memories.get_memory(connection, self.tenant_id, memory.id).status != "deleted":
                self._lacking.append({"file": name, "code": code})

    def _events(self, found: Iterable[Job]) -> bytes:
        with self.database.read() as connection:
            return _jsonl(
                views.event_object(event)
                for job in found
                for event in jobs.list_events(connection, self.tenant_id, job.id, limit=10_000)
            )

    def _list(self, name: str, pages: Pages, view: Callable[[Any], BaseModel]) -> Iterator[bytes]:
        """A list as files of so many lines."""
        number, last = 0, None
        while True:
            with self.database.read() as connection:
                page = pages(connection, last)
            number += 1
            yield from self._file(f"{name}/{number}.jsonl", _jsonl(map(view, page)))
            if len(page) < _LINES:
                return
            last = page[-1].id

    def _file(self, name: str, data: bytes) -> Iterator[bytes]:
        if self.stopping():
            raise Unavailable("The gateway shuts down; ask for the export again.")
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o600
        info.mtime = 0 if self._at is None else views.seconds(self._at)
        for part in (info.tobuf(tarfile.PAX_FORMAT), data + b"\0" * (-len(data) % tarfile.BLOCKSIZE)):
            self._sha256.update(part)
            yield part
        self._files += 1


def _jobs_of(connection: Connection, memory: Memory) -> list[Job]:
    """Newest first."""
    found: list[Job] = []
    while True:
        after = found[-1].id if found else None
        page = jobs.list_jobs(connection, memory.tenant_id, memory_id=memory.id, after=after, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return found


def _keys(tenant_id: str) -> Pages:
    return lambda connection, after: api_keys.list_keys(connection, tenant_id, after=after, limit=_LINES)


def _deletions(tenant_id: str) -> Pages:
    return lambda connection, after: deletions.list_deletions(connection, tenant_id, after=after, limit=_LINES)


def _audit(tenant_id: str) -> Pages:
    return lambda connection, after: audit.list_records(connection, tenant_id, after=after, limit=_LINES)


def _json(value: BaseModel | dict[str, Any]) -> bytes:
    fields = value.model_dump() if isinstance(value, BaseModel) else value
    return json.dumps(fields, ensure_ascii=False, indent=1).encode()


def _jsonl(values: Iterable[BaseModel]) -> bytes:
    return b"".join(value.model_dump_json().encode() + b"\n" for value in values)
