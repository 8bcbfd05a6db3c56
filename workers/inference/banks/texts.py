"""Whose texts may serve: a tenant's setting and its memories without an adapter, as the truth has them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from core.engine.prefix_cache import PrefixCache
from core.errors import NotFound
from core.truth import banks, memories, tenants
from core.truth.database import Database
from core.truth.records import ContextRecord, Fallback
from workers.inference.banks.text_cache import Text, TextCache, is_salt_of_text, salt_of

MOST_TENANTS = 1024
MOST_TEXTS = 1000
"""Of one tenant's memories without an adapter only the newest are searched."""
INDEXED_BYTES = 64
"""What an indexed text takes in RAM for each of its bytes: each sentence is in two entries, each a vector."""
AT_ONCE = 500
"""Tenants in one query: within every database's limit of parameters."""
TENANT_SHARE = 4
"""No tenant's searched texts take more than this part of the cache, or tenants would push each other out."""


@dataclass(frozen=True, slots=True)
class Following:
    """What is known of a tenant's texts at one revision of its bank: memories without an adapter, by id.

    Those `left_out` would be too many to hold.
    """

    tenant_id: str
    revision: int
    fallback: Fallback
    searched: Mapping[str, ContextRecord]
    left_out: tuple[ContextRecord, ...]


class Texts:
    """Follows the tenants that asked last; a tenant without `fallback: text` costs nothing but that. Thread-safe."""

    def __init__(self, database: Database, cache: TextCache, prefix_cache: PrefixCache, *, max_bytes: int) -> None:
        self._database = database
        self._cache = cache
        self._prefix_cache = prefix_cache
        self._share = max_bytes // TENANT_SHARE
        self._known: OrderedDict[str, Following] = OrderedDict()
        self._lock = threading.Lock()

    def follow(self, tenant_id: str, revision: int) -> Following:
        """What is known at `revision` or later; what was deleted since is forgotten. Raises `NotFound`."""
        with self._lock:
            known = self._known.get(tenant_id)
            if known is not None and known.revision >= revision:
                self._known.move_to_end(tenant_id)
                return known
        return self._refresh(tenant_id)

    def get(self, record: ContextRecord, *, indexed: bool) -> Future[Text]:
        """As `TextCache.get`."""
        return self._cache.get(record, indexed=indexed)

    def records(self, tenant_id: str, memory_ids: Collection[str]) -> dict[str, ContextRecord]:
        """Where the texts of these memories are, with or without an adapter; by id, of this tenant, not deleted."""
        with self._database.read() as connection:
            return memories.contexts(connection, tenant_id, memory_ids)

    def refresh_known(self) -> None:
        """Follows the truth, so that what is deleted goes even where nobody asks. A truth that does not answer is
        raised."""
        with self._lock:
            known = dict(self._known)
        unchecked = self._cache.unchecked()
        for tenant_id, following in known.items():
            # What a question under way brought back after it was deleted is looked at too.
            if following.fallback == "text" or tenant_id in unchecked:
                try:
                    with self._database.read() as connection:
                        revision = banks.bank_revision(connection, tenant_id)
                    if revision != following.revision or tenant_id in unchecked:
                        self._refresh(tenant_id)
                except NotFound:
                    self._drop(tenant_id)
        for tenant_id in unchecked.difference(known):
            self._cache.keep_only(tenant_id, (), ())
        # A prompt that was computed while its text was forgotten has left its KV.
        for salt in filter(is_salt_of_text, self._prefix_cache.salts - self._cache.salts):
            self._prefix_cache.forget(salt)
        self._forget_questions()

    def _forget_questions(self) -> None:
        """Of a tenant that is deleted, the KV of what it asked goes too."""
        askers = sorted(salt for salt in self._prefix_cache.salts if not is_salt_of_text(salt))
        for start in range(0, len(askers), AT_ONCE):
            asked = askers[start : start + AT_ONCE]
            with self._database.read() as connection:
                there = tenants.living(connection, asked)
            for salt in set(asked) - there:
                self._prefix_cache.forget(salt)

    def _refresh(self, tenant_id: str) -> Following:
        with self._database.read() as connection:
            tenant = tenants.get_tenant(connection, tenant_id)
            waiting, there = [], {}
            if tenant.fallback == "text":
                waiting = memories.without_adapter(connection, tenant_id, MOST_TEXTS)
                there = memories.contexts(connection, tenant_id, self._cache.known(tenant_id))
        searched, left_out = self._within_share(waiting)
        following = Following(tenant_id, tenant.bank_revision, tenant.fallback, searched, left_out)
        with self._lock:
            self._known[tenant_id] = following
            self._known.move_to_end(tenant_id)
            let_go = self._known.popitem(last=False)[0] if len(self._known) > MOST_TENANTS else None
        if let_go is not None:
            self._cache.keep_only(let_go, (), ())
        salts = {salt_of(record) for record in searched.values()}
        self._cache.keep_only(tenant_id, {*salts, *(salt_of(record) for record in there.values())}, salts)
        for record in searched.values():
            # Begun now, so that a question finds it done.
            self._cache.get(record, indexed=True)
        return following

    def _within_share(self, waiting: list[ContextRecord]) -> tuple[dict[str, ContextRecord], tuple[ContextRecord, ...]]:
        """The newest that fit, and those that do not."""
        taken, size = 0, 0
        for record in waiting:
            size += record.context_bytes * INDEXED_BYTES
            if size > self._share:
                break
            taken += 1
        return {record.memory_id: record for record in waiting[:taken]}, tuple(waiting[taken:])

    def _drop(self, tenant_id: str) -> None:
        with self._lock:
            self._known.pop(tenant_id, None)
        self._cache.keep_only(tenant_id, (), ())
