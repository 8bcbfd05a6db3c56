"""An adapter's files on this node, fetched and checked: node cache ← object store, and from there into RAM."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from core.adapters.peft_format import load_adapter
from core.adapters.staging import staged
from core.adapters.validation import validate_adapter
from core.errors import AdapterInvalid, LatentBankError, ObjectCorrupt, StorageError, WrongBase
from core.logs import get_logger
from core.metrics import InferenceMetrics
from core.retrieval.index import load_index
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from core.storage.publication import read_manifest
from workers.inference.tiers.loaded import LoadedMemory, Wanted

MANIFESTS = 4096
"""Manifests of the adapters last wanted, about a kilobyte each."""
Source = Literal["node_cache", "object_store"]

log = get_logger(__name__)


class AdapterFiles:
    """What this worker reads of adapters. `layers` is layer name to `(in, out)`, `rank` the highest that fits here.

    `device` is the slots': what is read waits in RAM where it can be copied there at once.
    """

    def __init__(
        self,
        node_cache: NodeCache,
        metrics: InferenceMetrics,
        *,
        base_digest: str,
        layers: Mapping[str, tuple[int, int]],
        rank: int,
        device: torch.device,
    ) -> None:
        self._node_cache = node_cache
        self._metrics = metrics
        self._base_digest = base_digest
        self._layers = layers
        self._rank = rank
        self._device = device
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._lock = threading.Lock()

    def source(self, digest: str) -> Source:
        """Where the files would come from now."""
        try:
            return "node_cache" if self._node_cache.contains(digest) else "object_store"
        except OSError:
            return "object_store"

    @contextmanager
    def reading(self, manifest: Manifest) -> Iterator[Path]:
        """The verified files; they stay until the block ends. Raises `WrongBase`, `ObjectCorrupt`, `StorageError`."""
        if manifest.base_digest != self._base_digest:
            raise WrongBase(
                f"{manifest.memory_id} was trained on {manifest.base_name} ({manifest.base_digest[:19]}…), "
                f"but this worker serves another base ({self._base_digest[:19]}…)."
            )
        try:
            with ExitStack() as held:
                with self.timed(self.source(manifest.adapter_digest), "fetch"):
                    directory = held.enter_context(self._node_cache.reading(manifest))
                yield directory
        except OSError as failure:
            # As with a store that fails: what is resident goes on, and the rest is tried again later.
            raise StorageError(f"The node's disk can't be used: {failure.strerror}.") from failure

    def load(self, wanted: Manifest | Wanted) -> LoadedMemory:
        """Adapter and index in RAM. Raises as `reading`, and `AdapterInvalid` where they do not fit this worker."""
        manifest = wanted if isinstance(wanted, Manifest) else self._manifest(wanted)
        layers = {name: shape for name, shape in self._layers.items() if name.rsplit(".", 1)[-1] in manifest.targets}
        with self.reading(manifest) as directory, self.timed("node_cache", "read"):
            config = validate_adapter(directory, expected_layers=layers)
            if config.rank > self._rank:
                raise AdapterInvalid(f"The adapter's rank is {config.rank}; the slots here take {self._rank}.")
            adapter = load_adapter(directory)
            staged_adapter = replace(adapter, weights=staged(adapter.weights, self._device))
            return LoadedMemory.of(staged_adapter, load_index(directory))

    def _manifest(self, wanted: Wanted) -> Manifest:
        """Kept for the adapters last wanted, so that what is on the disk needs no store."""
        with self._lock:
            known = self._manifests.get(wanted.adapter_digest)
            if known is not None:
                self._manifests.move_to_end(wanted.adapter_digest)
        manifest = known or self.read_manifest(wanted)
        with self._lock:
            self._manifests[wanted.adapter_digest] = manifest
            while len(self._manifests) > MANIFESTS:
                self._manifests.popitem(last=False)
        return manifest

    def read_manifest(self, wanted: Wanted) -> Manifest:
        """From the store. Raises `ObjectCorrupt` where it is not the one of the entry."""
        entry = wanted.entry
        manifest = read_manifest(self._node_cache.store, entry.manifest_key)
        named = (manifest.tenant_id, manifest.memory_id, manifest.adapter_digest, manifest.base_digest)
        if named != (wanted.tenant_id, entry.memory_id, entry.adapter_digest, entry.base_digest):
            raise ObjectCorrupt(f"The manifest under {entry.manifest_key} is not the one of {entry.memory_id}.")
        return manifest

    def forget(self, digest: str) -> bool:
        """Removes the files from the node; False where the disk did not let it."""
        with self._lock:
            self._manifests.pop(digest, None)
        try:
            self._node_cache.drop(digest)
        except OSError as problem:
            # Nothing names it any more; it must not keep the caller from forgetting the next.
            log.error("the node cache could not forget an adapter", digest=digest, why=str(problem))
            return False
        return True

    def refused(self, memory_id: str, digest: str, problem: LatentBankError) -> None:
        """Counts and logs an adapter that can't be had."""
        self._metrics.adapter_load_failures.labels(problem.code).inc()
        log.warning("adapter refused", memory_id=memory_id, digest=digest, code=problem.code, why=str(problem))

    def last_used(self, most: int) -> tuple[str, ...]:
        """Digests in the node's cache, at most `most`, the last used first; none where the disk can't be read."""
        try:
            return self._node_cache.last_used(most)
        except OSError as failure:
            log.error("the node's disk can't be used", why=str(failure))
            return ()

    def digests(self) -> tuple[str, ...]:
        """Of all adapters in the node's cache. Raises `StorageError`."""
        try:
            return self._node_cache.digests()
        except OSError as failure:
            raise StorageError(f"The node's disk can't be used: {failure.strerror}.") from failure

    def show(self) -> None:
        """Sets the gauges of the tier that other processes change too; they stay where the disk can't be read."""
        try:
            entries = self._node_cache.entries()
        except OSError as failure:
            log.error("the node's disk can't be used", why=str(failure))
            return
        self._metrics.adapter_resident.labels("node_cache").set(len(entries))
        self._metrics.adapter_bytes.labels("node_cache").set(sum(entry.bytes for entry in entries))

    @contextmanager
    def timed(self, source: str, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._metrics.adapter_load_seconds.labels(source, stage).observe(time.perf_counter() - start)
