"""What it takes to bring an adapter into a slot from each tier, and to serve more adapters than there are slots.

The tiers are the worker's own code over a real S3 server on this machine; its disk is warm in the page cache.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import torch
from botocore.config import Config
from prometheus_client import CollectorRegistry

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import LoadedAdapter, save_adapter
from core.base_model.loading import LoadedBase
from core.engine.kv import PrefixKv
from core.engine.passes import Passer, Step
from core.gate.samples import save_samples
from core.ids import new_id
from core.metrics import InferenceMetrics
from core.retrieval.index import MemoryIndex, save_index
from core.settings import RecipeSettings, ServingSettings
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from core.storage.publication import upload_adapter
from core.storage.s3 import S3Store
from core.truth.records import BankEntry
from tests.benchmarks.serving_adapters import weights_of_recipe
from tests.fixtures.published import OPEN
from tests.fixtures.s3 import S3Server, gateway
from workers.inference.question import Waiting
from workers.inference.scheduler import Engine, Outcome, Work
from workers.inference.tiers.loaded import Wanted
from workers.inference.tiers.residency import Residency

BUCKET = "bench"
RAW_KEY = "raw"
ENTRIES, STATEMENTS, WIDTH = 20, 80, 384


class Tiers:
    """`wanted` are published memories, four times as many as there are slots."""

    def __init__(self, base: LoadedBase, adapters: PackedAdapters, server: S3Server, directory: Path) -> None:
        self._base = base
        self._adapters = adapters
        self._server = server
        self._directory = directory
        self._store = S3Store(BUCKET, "objects", server.settings(BUCKET))
        self._store.create_bucket()
        self._client = self._raw_client()
        self.slots = adapters.slots - 1
        published = [self._publish(number) for number in range(4 * self.slots)]
        self.wanted = [wanted for wanted, _ in published]
        self._client.put_object(Bucket=BUCKET, Key=RAW_KEY, Body=bytes(published[0][1].total_bytes))
        self._warm = self._residency(ServingSettings().ram_bytes)
        for wanted in self.wanted:
            self._warm.load(wanted)

    def load_ms(self, count: int) -> dict[str, list[float]]:
        """Milliseconds to a slot by tier, of `count` adapters each, and of a bare GET of as many bytes; in turn."""
        # Without RAM, so that each comes from the disk, or from the store where the disk has lost it.
        cold = self._residency(0)
        found: dict[str, list[float]] = {"ram": [], "disk": [], "store": [], "raw_get": []}
        for wanted in self.wanted[:count]:
            found["raw_get"].append(_ms(self._raw_get))
            self._node_cache.drop(wanted.adapter_digest)
            found["store"].append(_ms(partial(_to_slot, cold, wanted)))
            self._out_of_slots(cold)
            found["disk"].append(_ms(partial(_to_slot, cold, wanted)))
            self._out_of_slots(cold)
            self._out_of_slots(self._warm)
            found["ram"].append(_ms(partial(_to_slot, self._warm, wanted)))
        return found

    def throughput(self, different: int, prefixes: Sequence[PrefixKv], tokens: int, seed: int) -> float:
        """Tokens a second of `4 * slots` requests, each of one of so many adapters, in the worker's own engine."""
        chance = random.Random(seed)
        passer = Passer(self._base.model, self._adapters)
        engine = Engine(passer, InferenceMetrics(CollectorRegistry()), ServingSettings(max_running=self.slots))
        asked = [chance.randrange(different) for _ in self.wanted]
        start = time.perf_counter()
        for number, which in enumerate(asked):
            wanted = self.wanted[which]
            work = self._answer(passer, wanted, self._warm.load(wanted), prefixes[number % len(prefixes)], tokens)
            engine.submit("tenant", work, _raise, f"req_{number}")
        while engine.turn() or engine.waiting:
            pass
        return len(asked) * tokens / (time.perf_counter() - start)

    def _answer(self, passer: Passer, memory: Wanted, adapter: LoadedAdapter, prefix: PrefixKv, tokens: int) -> Work:
        wanted = {memory.adapter_digest: adapter}
        while (lease := self._warm.acquire(wanted)) is None:
            yield Waiting()
        try:
            row = passer.running.join([prefix], {lease.slot(memory.adapter_digest): 1.0})
            try:
                token = self._base.description.activation_tokens[0]
                for _ in range(tokens):
                    token = int((yield Step(row, token)).argmax())
            finally:
                passer.running.leave(row)
        finally:
            lease.release()

    def _publish(self, seed: int) -> tuple[Wanted, Manifest]:
        recipe, base = RecipeSettings(), self._base.description
        layers, tenant_id, memory_id = self._base.model.config.num_hidden_layers, new_id("tenant"), new_id("mem")
        with tempfile.TemporaryDirectory() as directory:
            weights = weights_of_recipe(self._adapters, recipe, layers, seed)
            save_adapter(
                Path(directory),
                {name: (a.bfloat16(), b.bfloat16()) for name, (a, b) in weights.items()},
                rank=recipe.rank,
                alpha=recipe.alpha,
                targets=recipe.targets,
                base_name=base.name,
                activation_tokens=base.activation_tokens,
                base_digest=base.digest,
                layers=range(int(layers * recipe.untouched_layers), layers),
            )
            save_index(Path(directory), _index(memory_id), "none")
            save_samples(Path(directory), OPEN)
            manifest, key = upload_adapter(
                self._store,
                Path(directory),
                tenant_id=tenant_id,
                memory_id=memory_id,
                job_id=new_id("job"),
                version=1,
                epoch=1,
                token="bench",
                base_name=base.name,
                base_digest=base.digest,
                encoder="none",
                activation_tokens=base.activation_tokens,
                rank=recipe.rank,
                targets=recipe.targets,
                training={},
                gate={},
                seconds_by_phase={},
            )
        entry = BankEntry(memory_id, "default", "Bench", 1, manifest.adapter_digest, key, base.digest)
        return Wanted(tenant_id, entry), manifest

    def _residency(self, ram_bytes: int) -> Residency:
        self._node_cache = NodeCache(self._directory / "node-cache", 1024**3, self._store)
        return Residency(
            self._adapters,
            self._node_cache,
            base_digest=self._base.description.digest,
            ram_bytes=ram_bytes,
            metrics=InferenceMetrics(CollectorRegistry()),
        )

    def _out_of_slots(self, residency: Residency) -> None:
        """Fills the slots with other adapters."""
        others = self.wanted[-self.slots :]
        lease = residency.acquire({one.adapter_digest: self._warm.load(one) for one in others})
        assert lease is not None
        lease.release()

    def _raw_client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self._server.endpoint,
            aws_access_key_id=self._server.access_key,
            aws_secret_access_key=self._server.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def _raw_get(self) -> None:
        self._client.get_object(Bucket=BUCKET, Key=RAW_KEY)["Body"].read()


@contextmanager
def tiers(base: LoadedBase, adapters: PackedAdapters) -> Iterator[Tiers]:
    """Over a server that ends with the block."""
    with tempfile.TemporaryDirectory() as directory, gateway(Path(directory)) as server:
        yield Tiers(base, adapters, server, Path(directory))


def _index(memory_id: str) -> MemoryIndex:
    """Of the size that a document of three hundred words has."""
    entries = tuple(f"Sentence {number} of the document says what it says." for number in range(ENTRIES))
    vectors = torch.nn.functional.normalize(torch.randn(ENTRIES + STATEMENTS, WIDTH), dim=-1)
    return MemoryIndex(memory_id, "Bench", entries, vectors[:ENTRIES], "bench", vectors[ENTRIES:])


def _to_slot(residency: Residency, wanted: Wanted) -> None:
    lease = residency.acquire({wanted.adapter_digest: residency.load(wanted)})
    assert lease is not None
    lease.release()


def _ms(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _raise(outcome: Outcome) -> None:
    if isinstance(outcome, Exception):
        raise outcome
