"""The tiers of an adapter: slot ← RAM ← node cache ← object store, always by digest.

One lock holds look-up and reference count together (SGLang's registry does the same), so no eviction can come between
"it is there" and "I use it": a slot in use is never written to.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import LoadedAdapter, load_adapter
from core.adapters.validation import validate_adapter
from core.errors import AdapterInvalid, LatentBankError, WrongBase
from core.logs import get_logger
from core.metrics import InferenceMetrics
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from workers.inference.slots import SlotTable

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
        ram_adapters: int,
        metrics: InferenceMetrics,
    ) -> None:
        self._packed = packed
        self._node_cache = node_cache
        self._base_digest = base_digest
        self._layers = {name: (layer.a.shape[2], layer.b.shape[1]) for name, layer in packed.layers.items()}
        self._slot_bytes = sum(layer.a[0].nbytes + layer.b[0].nbytes for layer in packed.layers.values())
        self._ram_adapters = ram_adapters
        self._metrics = metrics
        self._table = SlotTable(packed.slots)
        self._ram: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._show()

    @property
    def capacity(self) -> int:
        """How many adapters can be in slots at once."""
        return self._packed.slots - 1

    @property
    def in_use(self) -> int:
        with self._lock:
            return self._table.in_use

    def slot_of(self, digest: str) -> int | None:
        with self._lock:
            return self._table.slot_of(digest)

    @contextmanager
    def reading(self, manifest: Manifest) -> Iterator[Path]:
        """The adapter's verified files on this node; they stay until the block ends.

        Raises `WrongBase`, `ObjectCorrupt`, `StorageError`; those, and what the block raises of ours, are counted.
        """
        digest = manifest.adapter_digest
        try:
            if manifest.base_digest != self._base_digest:
                raise WrongBase(
                    f"{manifest.memory_id} was trained on {manifest.base_name} ({manifest.base_digest[:19]}…), "
                    f"but this worker serves another base ({self._base_digest[:19]}…)."
                )
            source = "node_cache" if self._node_cache.contains(digest) else "object_store"
            with ExitStack() as held:
                with self._timed(source, "fetch"):
                    directory = held.enter_context(self._node_cache.reading(manifest))
                yield directory
        except LatentBankError as problem:
            self._metrics.adapter_load_failures.labels(problem.code).inc()
            log.warning("adapter refused", memory_id=manifest.memory_id, digest=digest, why=str(problem))
            raise

    def load(self, manifest: Manifest) -> LoadedAdapter:
        """Brings the adapter to RAM, whoever asks first; any thread. Raises as `reading`, and `AdapterInvalid`."""
        digest = manifest.adapter_digest
        with self._lock:
            gate = self._loading.setdefault(digest, threading.Lock())
        try:
            with gate:
                found = self._in_ram(digest)
                return found if found is not None else self._read(manifest)
        finally:
            with self._lock:
                self._loading.pop(digest, None)

    def acquire(self, adapters: Mapping[str, LoadedAdapter]) -> Lease | None:
        """Puts `adapters` (by digest) into slots and holds them there; `None` where too many slots are in use now.

        Raises `AdapterInvalid` where one does not fit the slots.
        """
        with self._lock:
            placement = self._table.take(adapters)
            if placement is None:
                return None
            try:
                for digest in placement.missing:
                    self._write(placement.slots[digest], adapters[digest])
            except AdapterInvalid as problem:
                self._undo(placement.slots, placement.missing)
                self._metrics.adapter_load_failures.labels(problem.code).inc()
                raise
            for digest in placement.evicted:
                self._metrics.adapter_evictions.labels("slot", "lru").inc()
                log.debug("slot evicted", digest=digest)
            self._show()
            return Lease(self, placement.slots)

    def give_back(self, digest: str) -> None:
        """One reference less, by `Lease` only."""
        with self._lock:
            self._clear(self._table.give_back(digest))
            self._show()

    def forget(self, digest: str) -> None:
        """What is deleted goes from every tier; from a slot in use as soon as it is given back."""
        with self._lock:
            self._let_go(digest)
            self._show()
        try:
            self._node_cache.drop(digest)
        except OSError as problem:
            # Nothing names it any more; it must not keep the caller from forgetting the next.
            log.error("the node cache could not forget an adapter", digest=digest, why=str(problem))

    def forget_others(self, digests: Collection[str]) -> None:
        """Only `digests` stay in slots and RAM; a request under way may have brought back what was forgotten."""
        with self._lock:
            for digest in {*self._table.digests, *self._ram}.difference(digests):
                self._let_go(digest)
            self._show()

    def last_used(self, most: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Digests in slots, in RAM and in the node's cache, at most `most` of each, the last used first."""
        with self._lock:
            slot = tuple(reversed(self._table.digests))[:most]
            ram = tuple(islice(reversed(self._ram), most))
        return slot, ram, self._node_cache.last_used(most)

    def show_node_cache(self) -> None:
        """Sets the gauges of the tier that other processes change too."""
        entries = self._node_cache.entries()
        self._metrics.adapter_resident.labels("node_cache").set(len(entries))
        self._metrics.adapter_bytes.labels("node_cache").set(sum(entry.bytes for entry in entries))

    def _in_ram(self, digest: str) -> LoadedAdapter | None:
        with self._lock:
            if digest in self._ram:
                self._ram.move_to_end(digest)
            return self._ram.get(digest)

    def _read(self, manifest: Manifest) -> LoadedAdapter:
        layers = {name: shape for name, shape in self._layers.items() if name.rsplit(".", 1)[-1] in manifest.targets}
        with self.reading(manifest) as directory, self._timed("node_cache", "read"):
            config = validate_adapter(directory, expected_layers=layers)
            if config.rank > self._packed.rank:
                raise AdapterInvalid(f"The adapter's rank is {config.rank}; the slots here take {self._packed.rank}.")
            adapter = load_adapter(directory)
        with self._lock:
            self._ram[manifest.adapter_digest] = adapter
            while len(self._ram) > self._ram_adapters:
                self._ram.popitem(last=False)
                self._metrics.adapter_evictions.labels("ram", "lru").inc()
            self._show()
        return adapter

    def _write(self, slot: int, adapter: LoadedAdapter) -> None:
        with self._timed("ram", "slot"):
            self._packed.write(slot, adapter.weights, adapter.scale)

    def _undo(self, slots: Mapping[str, int], missing: tuple[str, ...]) -> None:
        for digest in slots:
            self._table.give_back(digest)
        for digest in missing:
            self._clear(self._table.drop(digest))

    def _let_go(self, digest: str) -> None:
        self._clear(self._table.drop(digest))
        if self._ram.pop(digest, None) is not None:
            self._metrics.adapter_evictions.labels("ram", "deleted").inc()

    def _clear(self, slot: int | None) -> None:
        if slot is not None:
            self._packed.clear(slot)
            self._metrics.adapter_evictions.labels("slot", "deleted").inc()

    def _show(self) -> None:
        held = self._table.digests
        self._metrics.adapter_resident.labels("slot").set(len(held))
        self._metrics.adapter_resident.labels("ram").set(len(self._ram))
        self._metrics.adapter_bytes.labels("slot").set(len(held) * self._slot_bytes)
        self._metrics.adapter_bytes.labels("ram").set(sum(adapter.nbytes for adapter in self._ram.values()))

    @contextmanager
    def _timed(self, source: str, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._metrics.adapter_load_seconds.labels(source, stage).observe(time.perf_counter() - start)
