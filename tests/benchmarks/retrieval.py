"""Searching among many memories of one tenant, opened and followed by the worker's own code from a SQLite truth.

    python -m tests.benchmarks.retrieval [--memories 10000,100000] [--long] --json OUT

Memories are synthetic: clustered vectors of 384 coordinates, four to a memory, and 80 words each, as frequent as
content words are in English (the most frequent in a tenth of the memories). Questions are noisy copies of a
vector, with six words. Recall is against looking at everything. The embedding of the question is not part of it.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from sqlalchemy import insert

from core.gate.samples import pack_samples
from core.metrics import InferenceMetrics
from core.retrieval.compact import _WORD, hashes
from core.truth import memories, tenants
from core.truth.clock import now
from core.truth.database import Database
from core.truth.records import RetrievalRecord
from core.truth.tables import memories as memory_table
from core.truth.tables import retrieval_records
from tests.benchmarks.telling import tell, write_report
from tests.fixtures.published import OPEN
from workers.inference.banks.bank import Bank, Banks
from workers.inference.banks.bank_gates import BankGates

DIMENSION, VECTORS, WORDS, ASKED, VOCABULARY = 384, 4, 80, 6, 100_000
SEARCHES, RECALLED, TOP_K = 2000, 50, 5
LONG = 1_000_000
BASE_DIGEST = "sha256:" + "0" * 64


class Synthetic:
    """Memories and questions about them, the same for the same seed."""

    def __init__(self, count: int) -> None:
        self.chance = np.random.default_rng(0)
        self._topics = self._unit(self._noise(max(50, count // 50)))
        self._hashes = hashes([str(word) for word in range(VOCABULARY)])
        shares = 1 / (np.arange(VOCABULARY) + 100.0)
        self._often = np.cumsum(shares / shares.sum())
        self._samples = pack_samples(OPEN)
        self.first: list[NDArray[np.float32]] = []

    def record(self) -> RetrievalRecord:
        topic = self._topics[self.chance.integers(len(self._topics))]
        vectors = self._unit(self._unit(topic + self._noise(1)) + 0.8 * self._noise(VECTORS))
        if len(self.first) < SEARCHES:
            self.first.append(vectors[0])
        words, counts = np.unique(self._hashes[self._drawn(WORDS)], return_counts=True)
        packed = np.empty(len(words), _WORD)
        packed["term"], packed["count"] = words, counts
        as_bytes = np.rint(vectors * 127).astype(np.int8).tobytes()
        return RetrievalRecord("bench", DIMENSION, as_bytes, packed.tobytes(), self._samples)

    def questions(self, count: int) -> Iterator[tuple[str, torch.Tensor]]:
        for i in range(count):
            vector = self._unit(self.first[i % len(self.first)] + 0.6 * self._noise(1)[0])
            yield " ".join(map(str, self._drawn(ASKED))), torch.from_numpy(vector)

    def _drawn(self, count: int) -> NDArray[np.int64]:
        return np.minimum(np.searchsorted(self._often, self.chance.random(count)), VOCABULARY - 1)

    def _noise(self, rows: int) -> NDArray[np.float32]:
        return (self.chance.standard_normal((rows, DIMENSION)) / DIMENSION**0.5).astype(np.float32)

    def _unit(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
        return unit


def measure(count: int, *, searches: int = SEARCHES) -> dict[str, Any]:
    """Figures of a bank of `count` memories: milliseconds of a search, seconds, bytes, recall."""
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{Path(directory) / 'truth.db'}")
        database.migrate()
        synthetic = Synthetic(count)
        with database.begin() as connection:
            tenant_id = tenants.create_tenant(connection, "bench").id
        _fill(database, tenant_id, synthetic, count)
        # Nothing is loaded here, so the tiers of adapters are not needed, only told what is forgotten.
        residency: Any = SimpleNamespace(forget=lambda _: None, base_digest=BASE_DIGEST)
        gates = BankGates(InferenceMetrics(CollectorRegistry()), 0.05)
        banks = Banks(database, residency, gates, encoder="bench")
        gc.collect()
        before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        bank = banks.current(tenant_id)
        opened = time.perf_counter() - start
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        seconds = []
        for query, vector in synthetic.questions(searches):
            start = time.perf_counter()
            bank.index.search(query, vector, TOP_K)
            seconds.append(time.perf_counter() - start)
        recall = _recall(bank, synthetic)
        with database.begin() as connection:
            memories.delete_memory(connection, tenant_id, _id(count // 2))
        start = time.perf_counter()
        banks.current(tenant_id)
        refreshed = time.perf_counter() - start
        database.dispose()
    found = {f"p{share}_ms": round(float(np.percentile(seconds, share)) * 1e3, 3) for share in (50, 90, 99)}
    return {
        "memories": count,
        **found,
        "recall_at_5": round(recall, 4),
        "open_seconds": round(opened, 2),
        "refresh_seconds": round(refreshed, 4),
        "rss_per_idle_memory_bytes": round(grown / count),
        "index_bytes_per_memory": round(bank.index.nbytes / count),
    }


def _fill(database: Database, tenant_id: str, synthetic: Synthetic, count: int) -> None:
    for start in range(0, count, 5000):
        numbers = range(start, min(count, start + 5000))
        rows = [_row(tenant_id, number) for number in numbers]
        records = [synthetic.record() for _ in numbers]
        with database.begin() as connection:
            connection.execute(insert(memory_table).values(created_at=now(), updated_at=now()), rows)
            connection.execute(
                insert(retrieval_records),
                [
                    {"memory_id": row["id"], "adapter_digest": row["adapter_digest"]}
                    | {name: getattr(record, name) for name in RetrievalRecord.__slots__}
                    for row, record in zip(rows, records, strict=True)
                ],
            )


def _id(number: int) -> str:
    return f"mem_{number:026}"


def _row(tenant_id: str, number: int) -> dict[str, Any]:
    digest = f"sha256:{number:064x}"
    return {
        "id": _id(number),
        "tenant_id": tenant_id,
        "collection": "default",
        "title": f"The manual of machine number {number}",
        "metadata": {},
        "kind": "text",
        "status": "ready",
        "context_key": f"tenants/{tenant_id}/memories/{_id(number)}/context",
        "context_sha256": "0" * 64,
        "context_bytes": 1,
        "context_tokens": 1,
        "base_digest": BASE_DIGEST,
        "version": 1,
        "adapter_digest": digest,
        "manifest_key": f"tenants/{tenant_id}/memories/{_id(number)}/adapters/1/1-0123456789abcdef/manifest.json",
        "adapter_bytes": 1,
    }


def _recall(bank: Bank, synthetic: Synthetic) -> float:
    """Of the best by looking at every memory, how many a search finds."""
    everyone, same = list(bank.members), 0
    for query, vector in synthetic.questions(RECALLED):
        found = bank.index.search(query, vector, TOP_K)
        best = bank.index.search(query, vector, len(everyone))[:TOP_K]
        same += len({hit.memory_id for hit in found} & {hit.memory_id for hit in best})
    return same / (RECALLED * TOP_K)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.retrieval")
    parser.add_argument("--memories", default="10000,100000", help="sizes of banks, by comma")
    parser.add_argument("--long", action="store_true", help=f"a bank of {LONG} too; needs minutes and 30 GB of disk")
    parser.add_argument("--json", type=Path, default=Path("build/bench/retrieval.json"))
    options = parser.parse_args()
    counts = [int(count) for count in options.memories.split(",")] + ([LONG] if options.long else [])
    banks = []
    for count in counts:
        banks.append(measure(count))
        tell(f"{banks[-1]}")
    report = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.retrieval", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "banks": banks,
    }
    write_report(options.json, report)
    tell(f"{options.json} is written.")


if __name__ == "__main__":
    main()
