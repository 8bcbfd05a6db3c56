"""A tenant's bank as this worker serves it: truth → manifests → node cache → index and gate.

The truth is asked before every question; a bank is made anew when its revision has changed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from core.errors import AdapterInvalid, Conflict, LatentBankError, NotFound, ObjectCorrupt
from core.gate.decision import GateModel
from core.gate.samples import Sample, load_samples
from core.logs import get_logger
from core.retrieval.index import BankIndex, MemoryIndex, load_index
from core.storage.manifest import Manifest
from core.storage.object_store import ObjectStore
from core.storage.publication import read_manifest
from core.truth import memories, tenants
from core.truth.database import Database
from core.truth.records import BankEntry
from workers.inference.bank_gates import BankGates
from workers.inference.failures import Failure
from workers.inference.residency import Residency

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One memory that may serve."""

    entry: BankEntry
    manifest: Manifest
    index: MemoryIndex
    samples: tuple[Sample, ...]

    @property
    def digest(self) -> str:
        return self.manifest.adapter_digest


@dataclass(frozen=True, slots=True)
class Refused:
    """One memory that can't serve here for now, and why."""

    entry: BankEntry
    failure: Failure


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """All memories of one tenant at one revision, those that may serve and those that are refused."""

    tenant_id: str
    revision: int
    members: Mapping[str, Member]
    refused: Mapping[str, Refused]
    index: BankIndex

    def in_collection(self, collection: str) -> frozenset[str]:
        return frozenset(id_ for id_, member in self.members.items() if member.entry.collection == collection)

    def refused_in(self, collection: str | None) -> list[Refused]:
        """Those of a collection, or all."""
        return [one for one in self.refused.values() if collection is None or one.entry.collection == collection]

    def digests(self) -> frozenset[str]:
        """Of refused memories too: what is wrong with them may have been seen in files that are here."""
        served = {member.digest for member in self.members.values()}
        return frozenset(served | {one.entry.adapter_digest for one in self.refused.values()})

    def due(self, now: float) -> bool:
        """Whether a refused memory is to be tried again."""
        return any(now >= one.failure.retry_at for one in self.refused.values())


class Banks:
    """The banks of the tenants that asked last. Thread-safe."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        residency: Residency,
        gates: BankGates,
        *,
        encoder: str,
        most: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._store = store
        self._residency = residency
        self._gates = gates
        self._encoder = encoder
        self._most = most
        self._clock = clock
        self._banks: OrderedDict[str, Bank] = OrderedDict()
        self._gone: set[str] = set()
        self._refreshing: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def current(self, tenant_id: str) -> Bank:
        """The bank at the truth's present revision. Raises `NotFound` for a tenant that is not there."""
        known = self._known(tenant_id)
        if known is not None and known.revision == self._revision(tenant_id):
            return known
        return self._refresh(tenant_id)

    def gate(self, bank: Bank) -> GateModel:
        """What judges the bank's candidates now; for a moment after a change, the gate of the bank before it."""
        return self._gates.current(bank.tenant_id)

    def refresh_known(self) -> None:
        """Follows the truth for every bank held here, so that what is deleted goes even where nobody asks; then tries
        again what was refused, so that no question waits for a store that fails.

        One bank that can't be refreshed holds up no other; a truth that does not answer is raised.
        """
        with self._lock:
            gone, self._gone = self._gone, set()
        self._each(self.current, self._held())
        named = frozenset().union(*(bank.digests() for bank in self._held().values()))
        # A question that knew the bank as it was may have brought back what was forgotten, even to the disk.
        for digest in gone - named:
            self._residency.forget(digest)
        self._residency.forget_others(named)
        now = self._clock()
        self._each(self._refresh, [tenant_id for tenant_id, bank in self._held().items() if bank.due(now)])

    def require(self, bank: Bank, ids: Iterable[str]) -> None:
        """Each of `ids` can serve for this tenant now, or the reason is raised.

        `NotFound` also for what is another tenant's or deleted, `Conflict` for what is not ready, `WrongBase`,
        `ObjectCorrupt` and others for what this worker refuses.
        """
        for memory_id in ids:
            if memory_id in bank.members:
                continue
            if memory_id in bank.refused:
                raise bank.refused[memory_id].failure.again()
            with self._database.read() as connection:
                memory = memories.get_memory(connection, bank.tenant_id, memory_id)
            if memory.status == "deleted":
                raise NotFound(f"The memory '{memory_id}' is deleted.", param="memory")
            raise Conflict(f"The memory '{memory_id}' can't answer: it is {memory.status}.", param="memory")

    def _known(self, tenant_id: str) -> Bank | None:
        with self._lock:
            if tenant_id in self._banks:
                self._banks.move_to_end(tenant_id)
            return self._banks.get(tenant_id)

    def _revision(self, tenant_id: str) -> int:
        with self._database.read() as connection:
            return memories.bank_revision(connection, tenant_id)

    def _held(self) -> dict[str, Bank]:
        with self._lock:
            return dict(self._banks)

    def _each(self, duty: Callable[[str], Bank], tenants: Iterable[str]) -> None:
        for tenant_id in tenants:
            try:
                duty(tenant_id)
            except NotFound:
                self._drop(tenant_id)
            except SQLAlchemyError:
                raise
            except Exception:
                log.exception("a bank could not be refreshed", tenant_id=tenant_id)

    def _refresh(self, tenant_id: str) -> Bank:
        with self._lock:
            gate = self._refreshing.setdefault(tenant_id, threading.Lock())
        with gate:
            return self._refreshed(tenant_id)

    def _refreshed(self, tenant_id: str) -> Bank:
        before = self._known(tenant_id)
        with self._database.read() as connection:
            revision, entries = memories.bank(connection, tenant_id)
            rate = tenants.get_tenant(connection, tenant_id).false_activation
        if before is not None and before.revision == revision and not before.due(self._clock()):
            return before
        bank = self._make(tenant_id, revision, entries, before)
        self._gates.follow(tenant_id, [member.samples for member in bank.members.values()], rate)
        with self._lock:
            self._banks[tenant_id] = bank
            while len(self._banks) > self._most:
                self._let_go(self._banks.popitem(last=False)[0])
        if before is not None:
            self._forget(before.digests() - bank.digests())
        log.info("bank refreshed", tenant_id=tenant_id, revision=revision, memories=len(bank.members))
        return bank

    def _make(self, tenant_id: str, revision: int, entries: Collection[BankEntry], before: Bank | None) -> Bank:
        members: dict[str, Member] = {}
        refused: dict[str, Refused] = {}
        for entry in entries:
            found = self._member_or_why(tenant_id, entry, before)
            if isinstance(found, Member):
                members[entry.memory_id] = found
            else:
                refused[entry.memory_id] = found
        if before is not None and [*members.values()] == [*before.members.values()]:
            return Bank(tenant_id, revision, members, refused, before.index)
        return Bank(tenant_id, revision, members, refused, BankIndex([member.index for member in members.values()]))

    def _member_or_why(self, tenant_id: str, entry: BankEntry, before: Bank | None) -> Member | Refused:
        """What is known of this very entry is kept; a refused one until it is due."""
        old = before.members.get(entry.memory_id) if before else None
        if old is not None and old.entry == entry:
            return old
        failed = before.refused.get(entry.memory_id) if before else None
        failure = failed.failure if failed is not None and failed.entry == entry else None
        if failure is not None and self._clock() < failure.retry_at:
            return Refused(entry, failure)
        try:
            return self._member(tenant_id, entry)
        except LatentBankError as problem:
            self._residency.refused(entry.memory_id, entry.adapter_digest, problem)
            return Refused(entry, Failure.after(failure, problem, self._clock()))

    def _member(self, tenant_id: str, entry: BankEntry) -> Member:
        manifest = read_manifest(self._store, entry.manifest_key)
        named = (manifest.tenant_id, manifest.memory_id, manifest.adapter_digest, manifest.base_digest)
        if named != (tenant_id, entry.memory_id, entry.adapter_digest, entry.base_digest):
            raise ObjectCorrupt(f"The manifest under {entry.manifest_key} is not the one of {entry.memory_id}.")
        with self._residency.reading(manifest) as directory:
            index = load_index(directory, encoder=self._encoder)
            if index.memory_id != entry.memory_id:
                raise AdapterInvalid(f"The index of {entry.memory_id} is of another memory.")
            samples = load_samples(directory)
        return Member(entry, manifest, index, samples)

    def _let_go(self, tenant_id: str) -> None:
        self._refreshing.pop(tenant_id, None)
        self._gates.drop(tenant_id)

    def _drop(self, tenant_id: str) -> None:
        with self._lock:
            bank = self._banks.pop(tenant_id, None)
        self._gates.drop(tenant_id)
        if bank is not None:
            self._forget(bank.digests())

    def _forget(self, digests: Collection[str]) -> None:
        with self._lock:
            self._gone.update(digests)
        for digest in digests:
            self._residency.forget(digest)
