"""The tiers of an adapter: slot ← RAM ← node cache ← object store, always by digest.

One lock holds look-up and reference count together (SGLang's registry does the same), so no eviction can come between
"it is there" and "I use it": a slot in use is never written to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import LoadedAdapter
from core.errors import AdapterInvalid, Conflict, LatentBankError
from core.logs import get_logger
from core.metrics import InferenceMetrics
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from workers.inference.loads import done
from workers.inference.tiers.adapter_files import AdapterFiles
from workers.inference.tiers.failures import Failure
from workers.inference.tiers.loaded import LoadedMemory, Wanted
from workers.inference.tiers.ram import RamTier
from workers.inference.tiers.slots import SlotTable

READS, DOWNLOADS = 4, 8
"""Adapters that are read from this node's disk, and downloaded, at once."""

log = get_logger(__name__)


class Lease:
    """Adapters that stay in their slots until given back. Belongs to one request; not thread-safe."""

    def __init__(self, residency: Residency, slots: Mapping[str, int]) -> None:
        self._residency = residency
        self._slots = dict(slots)

    def slot(self, digest: str) -> int:
        """The slot of `digest`. Raises `AdapterInvalid` if it holds anything else: no answer, not another's."""
        if digest not in self._slots or self._residency.slot_of(digest) != self._slots[digest]:
            raise AdapterInvalid(f"{digest} is not in the slot that this request was admitted with.")
        return self._slots[digest]

    def keep(self, digests: Collection[str]) -> None:
        """Gives back all but `digests`."""
        for other in [held for held in self._slots if held not in digests]:
            del self._slots[other]
            self._residency.give_back(other)

    def release(self) -> None:
        """Gives back all; may be called again."""
        self.keep(())


class Residency:
    """All tiers of one worker. Thread-safe; slots are written under the lock, and only while nobody uses them."""

    def __init__(
        self,
        packed: PackedAdapters,
        node_cache: NodeCache,
        *,
        base_digest: str,
        ram_bytes: int,
        metrics: InferenceMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        layers = {name: (layer.a.shape[2], layer.b.shape[1]) for name, layer in packed.layers.items()}
        self._packed = packed
        self._files = AdapterFiles(
            node_cache, metrics, base_digest=base_digest, layers=layers, rank=packed.rank, device=packed.device
        )
        self.base_digest = base_digest
        # Of what is in slots: all that is not in them.
        self._besides: dict[str, LoadedMemory] = {}
        self._metrics = metrics
        self._clock = clock
        self._table = SlotTable(packed.slots)
        self._ram = RamTier(ram_bytes)
        self._pinned: set[str] = set()
        self._failed: dict[str, Failure] = {}
        self._loading: dict[str, Future[LoadedMemory]] = {}
        self._forgotten: set[str] = set()
        # Apart, so that a store that hangs does not hold up what is on the disk.
        self._pools = {
            "node_cache": ThreadPoolExecutor(READS, "read"),
            "object_store": ThreadPoolExecutor(DOWNLOADS, "download"),
        }
        self._lock = threading.Lock()
        self._show()

    @property
    def capacity(self) -> int:
        """How many adapters can be in slots at once."""
        return self._packed.slots - 1

    @property
    def room(self) -> int:
        """How many adapters one question can have in slots, whatever is pinned: at least 1."""
        with self._lock:
            return self.capacity - len(self._pinned)

    def fitting(self, digests: Sequence[str]) -> frozenset[str]:
        """The first of `digests` that can be in slots together, beside all that is pinned; one can always be."""
        with self._lock:
            others = [digest for digest in digests if digest not in self._pinned]
            left_out = others[self.capacity - len(self._pinned) :]
        return frozenset(digests).difference(left_out)

    @property
    def in_use(self) -> int:
        with self._lock:
            return self._table.in_use

    @property
    def leased(self) -> frozenset[str]:
        """Digests that requests hold in slots now."""
        with self._lock:
            return frozenset(digest for digest in self._table.digests if self._table.references(digest) > 0)

    def slot_of(self, digest: str) -> int | None:
        with self._lock:
            return self._table.slot_of(digest)

    def reading(self, manifest: Manifest) -> AbstractContextManager[Path]:
        """The adapter's verified files on this node; they stay until the block ends.

        Raises `WrongBase`, `ObjectCorrupt`, `StorageError`.
        """
        return self._files.reading(manifest)

    def read_manifest(self, wanted: Wanted) -> Manifest:
        """From the store; raises what is wrong with it."""
        return self._files.read_manifest(wanted)

    def refused(self, memory_id: str, digest: str, problem: LatentBankError) -> None:
        """Counts and logs what was found wrong while `reading`."""
        self._files.refused(memory_id, digest, problem)

    def prefetch(self, wanted: Manifest | Wanted) -> Future[LoadedMemory]:
        """The adapter, which is on its way to RAM or there; any thread. However many ask, one load runs.

        The future raises as `reading`, and `AdapterInvalid`; for a while after a failure the same problem at once.
        """
        digest = wanted.adapter_digest
        with self._lock:
            if digest in self._loading:
                return self._loading[digest]
            found = self._ram.get(digest) or self._in_slot(digest)
            if found is not None:
                return done(found)
            failure = self._failed.get(digest)
            if failure is not None and self._clock() < failure.retry_at:
                return done(failure.again())
            pool = self._pools[self._files.source(digest)]
            future = self._loading[digest] = pool.submit(self._load, wanted)
            return future

    def load(self, wanted: Manifest | Wanted) -> LoadedMemory:
        """As `prefetch`, and waits for it."""
        return self.prefetch(wanted).result()

    def acquire(self, adapters: Mapping[str, LoadedAdapter]) -> Lease | None:
        """Puts `adapters` (by digest) into slots and holds them there; `None` where too many slots are in use now.

        Raises `AdapterInvalid` where one does not fit the slots.
        """
        with self._lock:
            placement = self._table.take(adapters, self._pinned)
            if placement is None:
                return None
            written = False
            try:
                for digest in placement.missing:
                    adapter = adapters[digest]
                    if isinstance(adapter, LoadedMemory):
                        self._besides[digest] = replace(adapter, weights={})
                    self._write(placement.slots[digest], adapters[digest])
                written = True
            except AdapterInvalid as problem:
                self._metrics.adapter_load_failures.labels(problem.code).inc()
                raise
            finally:
                # Whatever went wrong, a slot that is half written is nobody's.
                if not written:
                    self._undo(placement.slots, placement.missing)
            for digest in placement.evicted:
                self._besides.pop(digest, None)
                self._metrics.adapter_evictions.labels("slot", "lru").inc()
                log.debug("slot evicted", digest=digest)
            self._show()
            return Lease(self, placement.slots)

    def give_back(self, digest: str) -> None:
        """One reference less, by `Lease` only."""
        with self._lock:
            self._clear(self._table.give_back(digest), "given_back")
            self._show()

    def pin(self, digest: str) -> None:
        """Once in a slot or in RAM, the adapter stays there until `unpin` or until it is forgotten.

        Raises `Conflict` where no slot would be left for others.
        """
        with self._lock:
            if len({*self._pinned, digest}) >= self.capacity:
                raise Conflict(f"Of {self.capacity} slots {len(self._pinned)} are pinned; one has to stay free.")
            self._pinned.add(digest)
            self._table.keep(digest)

    def unpin(self, digest: str) -> None:
        """Nothing happens where it is not pinned."""
        with self._lock:
            self._pinned.discard(digest)

    def holds(self, digest: str) -> bool:
        """Whether the adapter is in a slot or in RAM, or on its way there."""
        with self._lock:
            return digest in self._loading or digest in self._ram or self._table.slot_of(digest) is not None

    def unload(self, digest: str) -> None:
        """Unpins the adapter and takes it out of RAM and its slot; of one in use when the last request gives it back.

        Its files stay on the node, and a question may bring it back.
        """
        with self._lock:
            self._let_go(digest, "unloaded")
            self._show()

    def forget(self, digest: str) -> None:
        """What is deleted goes from every tier; from a slot in use as soon as it is given back."""
        with self._lock:
            self._let_go(digest)
            if digest in self._loading:
                self._forgotten.add(digest)
            self._show()
        self._files.forget(digest)

    def forget_others(self, digests: Collection[str]) -> None:
        """Only `digests` stay in slots, in RAM and pinned: a request under way may bring back what was forgotten."""
        with self._lock:
            for digest in {*self._table.digests, *self._ram.digests, *self._failed, *self._pinned}.difference(digests):
                self._let_go(digest)
            self._show()

    def last_used(self, most: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Digests in slots, in RAM and in the node's cache, at most `most` of each; what would go last first."""
        with self._lock:
            slot = tuple(reversed(self._table.digests))[:most]
            ram = tuple(reversed(self._ram.digests))[:most]
        return slot, ram, self._files.last_used(most)

    def on_disk(self) -> tuple[str, ...]:
        """Digests of all adapters in the node's cache, whichever process brought them."""
        return self._files.digests()

    def show_node_cache(self) -> None:
        """Sets the gauges of the tier that other processes change too."""
        self._files.show()

    def _load(self, wanted: Manifest | Wanted) -> LoadedMemory:
        """On a thread of the pools; whatever comes of it, the next who ask find it in RAM, failed, or not begun."""
        digest = wanted.adapter_digest
        try:
            adapter = self._files.load(wanted)
        except LatentBankError as problem:
            self._files.refused(wanted.memory_id, digest, problem)
            with self._lock:
                if digest not in self._forgotten:
                    self._failed[digest] = Failure.after(self._failed.get(digest), problem, self._clock())
            raise
        else:
            with self._lock:
                self._failed.pop(digest, None)
                if digest not in self._forgotten:
                    self._keep(digest, adapter)
            return adapter
        finally:
            with self._lock:
                del self._loading[digest]
                forgotten = digest in self._forgotten
                self._forgotten.discard(digest)
            if forgotten:
                self._files.forget(digest)

    def _keep(self, digest: str, adapter: LoadedMemory) -> None:
        evicted = self._ram.put(digest, adapter, self._pinned)
        self._metrics.adapter_evictions.labels("ram", "lru").inc(len(evicted))
        self._show()

    def _in_slot(self, digest: str) -> LoadedMemory | None:
        """A copy of what is in a slot though RAM has let it go: neither disk nor store is needed to serve it."""
        slot, rest = self._table.slot_of(digest), self._besides.get(digest)
        if slot is None or rest is None:
            return None
        weights, scale = self._packed.copy(slot)
        return replace(rest, weights=weights, scale=scale)

    def _write(self, slot: int, adapter: LoadedAdapter) -> None:
        with self._files.timed("ram", "slot"):
            self._packed.write(slot, adapter.weights, adapter.scale)

    def _undo(self, slots: Mapping[str, int], missing: tuple[str, ...]) -> None:
        for digest in slots:
            self._table.give_back(digest)
        for digest in missing:
            self._besides.pop(digest, None)
            self._clear(self._table.drop(digest), "invalid")

    def _let_go(self, digest: str, reason: str = "deleted") -> None:
        self._pinned.discard(digest)
        self._failed.pop(digest, None)
        self._besides.pop(digest, None)
        self._clear(self._table.drop(digest), reason)
        if self._ram.drop(digest):
            self._metrics.adapter_evictions.labels("ram", reason).inc()

    def _clear(self, slot: int | None, reason: str) -> None:
        if slot is not None:
            self._packed.clear(slot)
            self._metrics.adapter_evictions.labels("slot", reason).inc()

    def _show(self) -> None:
        held = len(self._table.digests)
        self._metrics.adapter_resident.labels("slot").set(held)
        self._metrics.adapter_resident.labels("ram").set(len(self._ram))
        self._metrics.adapter_bytes.labels("slot").set(held * self._packed.slot_bytes)
        self._metrics.adapter_bytes.labels("ram").set(self._ram.nbytes)
