"""What sealing costs the load of an adapter: `python -m tests.benchmarks.sealing --json build/bench/sealing.json`.

An adapter goes from the store through an empty node cache into RAM, sealed and plain in turn, over a local directory
and over S3. `aes_ms` is the decryption alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from core.encryption.data_keys import DataKeys
from core.encryption.envelope import unseal
from core.encryption.master_keys import MasterKeys
from core.encryption.sealed_store import SealedStore
from core.ids import new_id
from core.storage.local import LocalStore
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from core.storage.object_store import ObjectStore
from core.storage.publication import upload_adapter
from core.storage.s3 import S3Store
from core.truth.database import Database
from core.truth.tenants import create_tenant
from tests.benchmarks.telling import write_report
from tests.fixtures.s3 import gateway
from tests.unit.core.storage.examples import adapter_directory, facts

WEIGHTS_BYTES = 1_600_000
"""Of an adapter of the default base and recipe."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as behind,
        gateway(Path(behind)) as server,
    ):
        directory = Path(name)
        s3 = S3Store("bench", "objects", server.settings("bench"))
        s3.create_bucket()
        database = Database(f"sqlite:///{directory / 'truth.db'}")
        database.migrate()
        stores: dict[str, ObjectStore] = {"local": LocalStore(directory / "objects"), "s3": s3}
        figures = {kind: measure(store, database, directory / kind, arguments.rounds) for kind, store in stores.items()}
    write_report(arguments.json, {"weights_bytes": WEIGHTS_BYTES, "rounds": arguments.rounds, **figures})


def measure(plain: ObjectStore, database: Database, directory: Path, rounds: int) -> dict[str, float]:
    """Medians in milliseconds; `over` is what sealed takes over plain."""
    sealed = SealedStore(plain, DataKeys(database, MasterKeys([os.urandom(32)])))
    made = adapter_directory(directory / "made", weights=os.urandom(WEIGHTS_BYTES))
    manifests = {name: upload(store, database, made) for name, store in (("plain", plain), ("sealed", sealed))}
    took: dict[str, list[float]] = {"plain": [], "sealed": []}
    for number in range(rounds):
        for name, store in (("plain", plain), ("sealed", sealed)):
            cache = NodeCache(directory / f"cache-{name}-{number}", 10**9, store)
            took[name].append(seconds(lambda: load(cache, manifests[name])))  # noqa: B023 - called at once
    manifest = manifests["sealed"]
    key = next(manifest.key_of(one) for one in manifest.files if one.name == "adapter_model.safetensors")
    data, cipher = plain.get(key), sealed.keys.sealing(manifest.tenant_id).cipher
    aes = statistics.median(seconds(lambda: unseal(data, key, cipher)) for _ in range(rounds))
    middle = {name: statistics.median(times) * 1e3 for name, times in took.items()}
    return {
        "plain_ms": round(middle["plain"], 2),
        "sealed_ms": round(middle["sealed"], 2),
        "over": round(middle["sealed"] / middle["plain"], 3),
        "aes_ms": round(aes * 1e3, 3),
        "aes_over_plain": round(aes * 1e3 / middle["plain"], 4),
    }


def upload(store: ObjectStore, database: Database, directory: Path) -> Manifest:
    with database.begin() as connection:
        tenant_id = create_tenant(connection, "bench").id
    return upload_adapter(store, directory, **facts(tenant_id=tenant_id, memory_id=new_id("mem")))[0]


def load(cache: NodeCache, manifest: Manifest) -> int:
    with cache.reading(manifest) as directory:
        return sum(len((directory / one.name).read_bytes()) for one in manifest.files)


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
