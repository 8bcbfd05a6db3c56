"""A tenant's bank as this worker serves it: who may answer, the index and the gate, all from the truth.

The truth is asked before every question; a bank follows what changed since the revision that it has.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from core.errors import AdapterInvalid, Conflict, LatentBankError, NotFound, WrongBase
from core.gate.decision import GateModel
from core.gate.samples import Sample, unpack_samples
from core.logs import get_logger
from core.retrieval.cells import EXACT, THIN
from core.retrieval.compact import MOST_VECTORS, Compact, read_record, record_of
from core.retrieval.live import LiveIndex
from core.truth import banks, memories, tenants
from core.truth.database import Database
from core.truth.records import BankEntry, Changes, Found, RetrievalRecord
from workers.inference.banks.bank_gates import BankGates, basis_of
from workers.inference.tiers.failures import Failure
from workers.inference.tiers.loaded import Wanted
from workers.inference.tiers.residency import Residency

THIN_FROM = EXACT // THIN
"""A bank of more memories than this is read with few vectors of each, since it will keep no more."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One memory that may serve; `created` is in seconds since 1970."""

    entry: BankEntry
    created: int

    @property
    def digest(self) -> str:
        return self.entry.adapter_digest


@dataclass(frozen=True, slots=True)
class Refused:
    """One memory that can't serve here for now, and why."""

    entry: BankEntry
    failure: Failure
    created_at: datetime

    def due(self, now: float) -> bool:
        """Whether it is to be tried again: what is wrong with the bytes of a version stays wrong."""
        return now >= self.failure.retry_at and not isinstance(self.failure.problem, AdapterInvalid)


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """All memories of one tenant at one revision, those that may serve and those that are refused.

    The index is shared with the banks of later revisions, so that what is deleted is found by nobody any more.
    `samples` are those that the gate is fitted to.
    """

    tenant_id: str
    revision: int
    members: Mapping[str, Member]
    refused: Mapping[str, Refused]
    index: LiveIndex
    samples: Mapping[str, tuple[Sample, ...]]

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
        return any(one.due(now) for one in self.refused.values())


class Banks:
    """The banks of the tenants that asked last. Thread-safe."""

    def __init__(
        self,
        database: Database,
        residency: Residency,
        gates: BankGates,
        *,
        encoder: str,
        most: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
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

    def refresh_known(self) -> bool:
        """Follows the truth for every bank held here, so that what is deleted goes even where nobody asks; then tries
        again what was refused, so that no question waits for a store that fails.

        One bank that can't be refreshed holds up no other; a truth that does not answer is raised. Whether nothing that
        is deleted was left in RAM or on the disk.
        """
        with self._lock:
            gone, self._gone = self._gone, set()
        clean = self._each(self.current, self._held())
        named = frozenset().union(*(bank.digests() for bank in self._held().values()))
        # A question that knew the bank as it was may have brought back what was forgotten, even to the disk.
        clean = all([self._residency.forget(digest) for digest in gone - named]) and clean
        self._residency.forget_others(named)
        now = self._clock()
        self._each(self._refresh, [tenant_id for tenant_id, bank in self._held().items() if bank.due(now)])
        return clean

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
            return banks.bank_revision(connection, tenant_id)

    def _held(self) -> dict[str, Bank]:
        with self._lock:
            return dict(self._banks)

    def _each(self, duty: Callable[[str], Bank], tenants: Iterable[str]) -> bool:
        """Whether it could be done for all of them."""
        done = True
        for tenant_id in tenants:
            try:
                duty(tenant_id)
            except NotFound:
                self._drop(tenant_id)
            except SQLAlchemyError:
                raise
            except Exception:
                log.exception("a bank could not be refreshed", tenant_id=tenant_id)
                done = False
        return done

    def _refresh(self, tenant_id: str) -> Bank:
        with self._lock:
            gate = self._refreshing.setdefault(tenant_id, threading.Lock())
        with gate:
            return self._refreshed(tenant_id)

    def _refreshed(self, tenant_id: str) -> Bank:
        before = self._known(tenant_id)
        if before is None:
            bank, gone = self._open(tenant_id), frozenset[str]()
        else:
            with self._database.read() as connection:
                changes = banks.changes(connection, tenant_id, before.revision, _vectors(before.index.thin))
            if changes.revision == before.revision and not before.due(self._clock()):
                return before
            if _missed(before.revision, changes):
                bank = self._open(tenant_id)
                gone = before.digests() - bank.digests()
            else:
                bank, gone = self._follow(before, changes)
        with self._database.read() as connection:
            rate = tenants.get_tenant(connection, tenant_id).false_activation
        self._gates.follow(tenant_id, list(bank.samples.values()), rate)
        with self._lock:
            self._banks[tenant_id] = bank
            while len(self._banks) > self._most:
                self._let_go(self._banks.popitem(last=False)[0])
        self._forget(gone)
        log.info("bank refreshed", tenant_id=tenant_id, revision=bank.revision, memories=len(bank.members))
        return bank

    def _open(self, tenant_id: str) -> Bank:
        """All of a bank in one stream; the revision is read first, so that what comes meanwhile is followed later."""
        members: dict[str, Member] = {}
        refused: dict[str, Refused] = {}
        index, unread = LiveIndex(), []

        def compacts(found: Iterable[Found]) -> Iterator[tuple[str, str, Compact]]:
            for one in found:
                if one.record is None:
                    unread.append(one)
                else:
                    yield from self._taken(tenant_id, one, None, members, refused, index)

        with self._database.read() as connection:
            revision = banks.bank_revision(connection, tenant_id)
            many = banks.served(connection, tenant_id) > THIN_FROM
            index.change(compacts(banks.stream(connection, tenant_id, _vectors(many))))
        # Read outside the stream, which a store that is slow would keep open.
        for one in unread:
            index.change(self._taken(tenant_id, one, None, members, refused, index))
        return Bank(tenant_id, revision, members, refused, index, self._samples(members, refused, {}, index))

    def _follow(self, before: Bank, changes: Changes) -> tuple[Bank, frozenset[str]]:
        """The bank after `changes`, and the digests that it serves no more. What failed and is due is tried again."""
        members, refused = dict(before.members), dict(before.refused)
        touched = {*changes.gone, *(one.entry.memory_id for one in changes.served)}
        left = {id_: entry for id_ in touched if (entry := _entry(before, id_)) is not None}
        for memory_id in touched:
            members.pop(memory_id, None)
            refused.pop(memory_id, None)
        before.index.change((), changes.gone)
        now = self._clock()
        due = [Found(one.entry, one.created_at, None) for one in refused.values() if one.due(now)]
        for one in (*changes.served, *due):
            old = before.refused.get(one.entry.memory_id)
            failure = old.failure if old is not None and old.entry == one.entry else None
            refused.pop(one.entry.memory_id, None)
            taken = self._taken(before.tenant_id, one, failure, members, refused, before.index)
            before.index.change(taken, () if taken else [one.entry.memory_id])
        kept = {id_: samples for id_, samples in before.samples.items() if id_ not in touched}
        samples = self._samples(members, refused, kept, before.index)
        bank = Bank(before.tenant_id, changes.revision, members, refused, before.index, samples)
        stays = {entry.adapter_digest for id_ in left if (entry := _entry(bank, id_)) is not None}
        return bank, frozenset(entry.adapter_digest for entry in left.values()) - stays

    def _taken(
        self,
        tenant_id: str,
        found: Found,
        failure: Failure | None,
        members: dict[str, Member],
        refused: dict[str, Refused],
        index: LiveIndex,
    ) -> list[tuple[str, str, Compact]]:
        """Notes whether the memory may serve; what the index is to know of it then."""
        entry = found.entry
        try:
            if entry.base_digest != self._residency.base_digest:
                raise WrongBase("The memory was trained on another base than this worker serves.")
            compact = read_record(found.record or self._read(tenant_id, entry), self._encoder)
            width = compact.vectors.shape[1]
            if index.dimension not in (None, width):
                raise AdapterInvalid(f"The memory's vectors have {width} numbers, this bank's {index.dimension}.")
        except LatentBankError as problem:
            self._residency.refused(entry.memory_id, entry.adapter_digest, problem)
            refused[entry.memory_id] = Refused(entry, Failure.after(failure, problem, self._clock()), found.created_at)
            return []
        members[entry.memory_id] = Member(entry, int(found.created_at.timestamp()))
        return [(entry.memory_id, entry.collection, compact)]

    def _read(self, tenant_id: str, entry: BankEntry) -> RetrievalRecord:
        """The record of a version that was published without one, from its files; the truth keeps it from then on."""
        manifest = self._residency.read_manifest(Wanted(tenant_id, entry))
        with self._residency.reading(manifest) as directory:
            record = record_of(directory, entry.memory_id)
        if record.encoder == self._encoder:
            with self._database.begin() as connection:
                banks.backfill_record(connection, entry.memory_id, entry.adapter_digest, record)
        return record

    def _samples(
        self,
        members: dict[str, Member],
        refused: dict[str, Refused],
        known: Mapping[str, tuple[Sample, ...]],
        index: LiveIndex,
    ) -> dict[str, tuple[Sample, ...]]:
        """Of the memories that the gate is fitted to; one whose samples can't be used is refused."""
        while True:
            chosen = basis_of(members)
            missing = [memory_id for memory_id in chosen if memory_id not in known]
            with self._database.read() as connection:
                packed = banks.samples(connection, missing) if missing else {}
            read = dict(known)
            for memory_id in missing:
                try:
                    read[memory_id] = unpack_samples(packed[memory_id]) if memory_id in packed else ()
                except AdapterInvalid as problem:
                    member = members.pop(memory_id)
                    created = datetime.fromtimestamp(member.created, UTC)
                    failure = Failure.after(None, problem, self._clock())
                    self._residency.refused(memory_id, member.digest, problem)
                    index.change((), [memory_id])
                    refused[memory_id] = Refused(member.entry, failure, created)
            if all(memory_id in read for memory_id in chosen):
                return {memory_id: read[memory_id] for memory_id in chosen}
            known = read

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


def _missed(revision: int, changes: Changes) -> bool:
    """Whether something changed that the feed does not tell: a process of an older release, or a backup that was
    restored."""
    nothing = not changes.served and not changes.gone
    return changes.revision < revision or (changes.revision > revision and nothing)


def _entry(bank: Bank, memory_id: str) -> BankEntry | None:
    known = bank.members.get(memory_id) or bank.refused.get(memory_id)
    return None if known is None else known.entry


def _vectors(thin: bool) -> int:
    return THIN if thin else MOST_VECTORS
