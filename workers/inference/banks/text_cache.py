"""Texts of memories that serve from them: fetched once, verified, with an index where they are to be searched.

What is held of a text is this and the prefix KV under its salt: both go together.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

from core.contexts import text_of
from core.errors import LatentBankError, ObjectCorrupt
from core.logs import get_logger
from core.retrieval.entries import entries_of
from core.retrieval.index import Encode, MemoryIndex
from core.storage.object_store import ObjectStore
from core.truth.records import ContextRecord
from workers.inference.loads import done
from workers.inference.tiers.failures import Failure

THREADS = 2

log = get_logger(__name__)


def salt_of(record: ContextRecord) -> str:
    """What the prefix KV of prompts with this text is kept under; no tenant's own salt looks like it."""
    return f"{record.tenant_id}/{record.memory_id}/{record.context_sha256}"


def is_salt_of_text(salt: str) -> bool:
    return "/" in salt


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """The text of a memory, as the base reads it; `index` where it may be searched."""

    record: ContextRecord
    text: str
    index: MemoryIndex | None

    @property
    def digest(self) -> str:
        """Of the context, as an answer names it."""
        return f"sha256:{self.record.context_sha256}"

    @property
    def nbytes(self) -> int:
        """Of text, entries and vectors, about."""
        size = len(self.text.encode())
        return size if self.index is None else 4 * size + self.index.embeddings.nbytes


@dataclass(frozen=True, slots=True)
class _Load:
    record: ContextRecord
    future: Future[Text]


class TextCache:
    """At most `max_bytes` of texts, the least recently used out. Thread-safe.

    `forgotten` is told of every salt whose text is held no more. `encode` is the encoder of the banks.
    """

    def __init__(
        self,
        store: ObjectStore,
        encode: Encode,
        *,
        max_bytes: int,
        forgotten: Callable[[str], None],
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._encode = encode
        self._max_bytes = max_bytes
        self._forgotten = forgotten
        self._clock = clock
        self._executor = executor or ThreadPoolExecutor(THREADS, "texts")
        self._held: OrderedDict[str, Text] = OrderedDict()
        self._loading: dict[tuple[str, bool], _Load] = {}
        self._failed: dict[str, tuple[ContextRecord, Failure]] = {}
        self._unchecked: set[str] = set()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._bytes

    @property
    def salts(self) -> frozenset[str]:
        """Of all texts held."""
        with self._lock:
            return frozenset(self._held)

    def get(self, record: ContextRecord, *, indexed: bool) -> Future[Text]:
        """The text, which is on its way or here; any thread. However many ask, one load runs.

        The future raises `ObjectMissing`, `ObjectCorrupt`, `StorageError`; for a while after a failure at once.
        """
        salt = salt_of(record)
        with self._lock:
            held = self._held.get(salt)
            if held is not None and (held.index is not None or not indexed):
                self._held.move_to_end(salt)
                return done(held)
            if (load := self._loading.get((salt, indexed))) is not None:
                return load.future
            _, failure = self._failed.get(salt, (record, None))
            if failure is not None and self._clock() < failure.retry_at:
                return done(failure.again())
            future: Future[Text] = Future()
            self._loading[salt, indexed] = _Load(record, future)
        self._executor.submit(self._load, record, indexed, future)
        return future

    def known(self, tenant_id: str) -> set[str]:
        """Ids of the tenant's memories of which there is anything here, if only that they failed."""
        with self._lock:
            records = [
                *(text.record for text in self._held.values()),
                *(load.record for load in self._loading.values()),
                *(record for record, _ in self._failed.values()),
            ]
        return {record.memory_id for record in records if record.tenant_id == tenant_id}

    def keep_only(self, tenant_id: str, texts: Collection[str], searched: Collection[str]) -> None:
        """Of the tenant only what is under one of the salts `texts` stays; with an index only those in `searched`."""
        with self._lock:
            self._unchecked.discard(tenant_id)
            for salt, text in list(self._held.items()):
                stays = salt in texts and (text.index is None or salt in searched)
                if text.record.tenant_id == tenant_id and not stays:
                    self._drop(salt)
            for key, load in list(self._loading.items()):
                if load.record.tenant_id == tenant_id and key[0] not in texts:
                    del self._loading[key]
            for salt, (record, _) in list(self._failed.items()):
                if record.tenant_id == tenant_id and salt not in texts:
                    del self._failed[salt]

    def unchecked(self) -> frozenset[str]:
        """Tenants of whom a text came here since they were last told what to keep."""
        with self._lock:
            return frozenset(self._unchecked)

    def _load(self, record: ContextRecord, indexed: bool, future: Future[Text]) -> None:
        """On a thread of the pool; a text that was forgotten meanwhile still goes to those who wait for it."""
        salt = salt_of(record)
        try:
            text = self._read(record, indexed)
        except LatentBankError as problem:
            log.warning("a text can't be read", memory_id=record.memory_id, problem=problem.code)
            with self._lock:
                if self._end(salt, indexed, future):
                    _, before = self._failed.get(salt, (record, None))
                    self._failed[salt] = record, Failure.after(before, problem, self._clock())
            future.set_exception(problem)
        except Exception as problem:
            # The pool's boundary: whoever waits has to hear of it.
            log.exception("a text can't be read", memory_id=record.memory_id)
            with self._lock:
                self._end(salt, indexed, future)
            future.set_exception(problem)
        else:
            with self._lock:
                if self._end(salt, indexed, future):
                    self._failed.pop(salt, None)
                    self._put(salt, text)
            future.set_result(text)

    def _read(self, record: ContextRecord, indexed: bool) -> Text:
        payload = self._store.get(record.context_key)
        if hashlib.sha256(payload).hexdigest() != record.context_sha256:
            raise ObjectCorrupt(f"The context of {record.memory_id} is not what was taken in.")
        text = text_of(payload)
        if not indexed:
            return Text(record, text, None)
        entries = entries_of(record.title, text, [])
        return Text(record, text, MemoryIndex(record.memory_id, record.title, entries, self._encode(entries)))

    def _end(self, salt: str, indexed: bool, future: Future[Text]) -> bool:
        """Whether the load that ends is still wanted."""
        load = self._loading.get((salt, indexed))
        if load is None or load.future is not future:
            return False
        del self._loading[salt, indexed]
        return True

    def _put(self, salt: str, text: Text) -> None:
        held = self._held.get(salt)
        if (held is not None and held.index is not None) or text.nbytes > self._max_bytes:
            return
        self._bytes += text.nbytes - (0 if held is None else held.nbytes)
        self._held[salt] = text
        self._held.move_to_end(salt)
        self._unchecked.add(text.record.tenant_id)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, salt: str) -> None:
        self._bytes -= self._held.pop(salt).nbytes
        self._forgotten(salt)
