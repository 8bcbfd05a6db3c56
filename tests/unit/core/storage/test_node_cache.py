from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from core.errors import ObjectCorrupt, ObjectMissing, StorageError
from core.storage.local import LocalStore
from core.storage.manifest import Manifest
from core.storage.memory import MemoryStore
from core.storage.node_cache import ATTEMPTS, CacheEntry, NodeCache, victims
from core.storage.object_store import ObjectStore
from tests.fixtures.flaky_store import Fault, FlakyStore
from tests.unit.core.storage.examples import FILES, published

OTHER_FILES = sum(len(data) for name, data in FILES.items() if name != "adapter_model.safetensors")


class _Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def _cache(directory: Path, store: ObjectStore, max_bytes: int = 10**9) -> NodeCache:
    return NodeCache(directory / "cache", max_bytes, store, sleep=lambda _: None, now=_Clock())


def _adapters(store: ObjectStore, directory: Path, count: int, size: int = 1000) -> list[Manifest]:
    return [
        published(store, directory / "made", weights=bytes([i]) * (size - OTHER_FILES), token=f"t{i}")
        for i in range(count)
    ]


def _leftovers(directory: Path) -> list[str]:
    return [str(path.relative_to(directory)) for path in (directory / "cache").rglob("*") if path.is_file()]


def test_a_fetched_directory_holds_exactly_the_published_files(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path / "made")
    directory = _cache(tmp_path, store).fetch(manifest)
    assert directory.name == manifest.adapter_digest.removeprefix("sha256:")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES


def test_a_second_fetch_reads_nothing_from_the_store(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore())
    manifest = published(store.store, tmp_path / "made")
    cache = _cache(tmp_path, store)
    assert not cache.contains(manifest.adapter_digest)
    cache.fetch(manifest)
    assert cache.contains(manifest.adapter_digest)
    assert cache.fetch(manifest) == _cache(tmp_path, store).fetch(manifest)
    asked = store.keys_of("download")
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("fault", ["unavailable", "truncated", "corrupted", "late_success"])
@pytest.mark.parametrize("at", range(len(FILES)))
def test_one_fault_in_a_download_is_mended(tmp_path: Path, fault: Fault, at: int) -> None:
    store = FlakyStore(MemoryStore(), download=["ok"] * at + [fault])
    manifest = published(store.store, tmp_path / "made")
    directory = _cache(tmp_path, store).fetch(manifest)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES


@pytest.mark.parametrize(
    ("fault", "error"), [("unavailable", StorageError), ("truncated", ObjectCorrupt), ("corrupted", ObjectCorrupt)]
)
def test_a_download_that_keeps_failing_leaves_nothing_behind(
    tmp_path: Path, fault: Fault, error: type[StorageError]
) -> None:
    store = FlakyStore(MemoryStore(), download=[fault] * ATTEMPTS * len(FILES))
    manifest = published(store.store, tmp_path / "made")
    cache = _cache(tmp_path, store)
    with pytest.raises(error):
        cache.fetch(manifest)
    assert _leftovers(tmp_path) == []
    assert not cache.contains(manifest.adapter_digest)
    assert _cache(tmp_path, store.store).fetch(manifest).is_dir()


def test_an_object_that_is_gone_is_missing_at_once(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore())
    manifest = published(store.store, tmp_path / "made")
    store.store.delete(manifest.key_of(manifest.files[0]))
    with pytest.raises(ObjectMissing):
        _cache(tmp_path, store).fetch(manifest)
    asked = store.keys_of("download")
    assert len(asked) == len(set(asked))
    assert _leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"?"), lambda path: path.unlink()])
def test_bytes_that_went_bad_on_the_disk_are_fetched_again(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path / "made")
    cache = _cache(tmp_path, store)
    damage(cache.fetch(manifest) / "adapter_model.safetensors")
    fetched = cache.fetch(manifest) / "adapter_model.safetensors"
    assert fetched.read_bytes() == FILES["adapter_model.safetensors"]


def test_the_longest_unused_adapter_is_evicted(tmp_path: Path) -> None:
    store = MemoryStore()
    one, two, three = _adapters(store, tmp_path, 3)
    cache = _cache(tmp_path, store, max_bytes=2000)
    for manifest in (one, two, one, three):
        cache.fetch(manifest)
    assert [cache.contains(m.adapter_digest) for m in (one, two, three)] == [True, False, True]
    assert sum(entry.bytes for entry in cache.entries()) == 2000


def test_an_adapter_larger_than_the_cache_is_still_served(tmp_path: Path) -> None:
    store = MemoryStore()
    small, large = _adapters(store, tmp_path, 1)[0], published(store, tmp_path / "made", weights=b"x" * 5000, epoch=2)
    cache = _cache(tmp_path, store, max_bytes=2000)
    cache.fetch(small)
    assert cache.fetch(large).is_dir()
    assert not cache.contains(small.adapter_digest)


def test_what_is_being_read_is_not_evicted(tmp_path: Path) -> None:
    store = MemoryStore()
    one, two, three = _adapters(store, tmp_path, 3)
    cache = _cache(tmp_path, store, max_bytes=1000)
    with cache.reading(one) as directory:
        cache.fetch(two)
        assert (directory / "calibration.json").exists()
        with cache.reading(one), cache.reading(two):
            pass
    cache.fetch(three)
    assert [cache.contains(m.adapter_digest) for m in (one, two, three)] == [False, False, True]


def test_a_dropped_adapter_is_gone_and_dropping_it_again_does_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path / "made")
    cache = _cache(tmp_path, store)
    cache.fetch(manifest)
    cache.drop(manifest.adapter_digest)
    cache.drop(manifest.adapter_digest)
    assert _leftovers(tmp_path) == []
    with pytest.raises(ObjectCorrupt):
        cache.drop("sha256:../../elsewhere")


def test_a_drop_waits_for_the_reader(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path / "made")
    cache = _cache(tmp_path, store)
    done = Event()
    with ThreadPoolExecutor(1) as threads:
        with cache.reading(manifest) as directory:
            dropped = threads.submit(lambda: (cache.drop(manifest.adapter_digest), done.set()))
            assert (directory / "calibration.json").read_bytes() == FILES["calibration.json"]
            assert not done.is_set()
        dropped.result(timeout=10)
    assert not cache.contains(manifest.adapter_digest)


def test_many_threads_download_once(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore())
    manifest = published(store.store, tmp_path / "made")
    caches = [_cache(tmp_path, store) for _ in range(3)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: caches[i % 3].fetch(manifest), range(24)))
    assert len(set(found)) == 1
    asked = store.keys_of("download")
    assert len(asked) == len(set(asked))


def test_many_processes_share_one_directory_whatever_is_evicted(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    manifests = _adapters(store, tmp_path, 4)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_use, args=(tmp_path, manifests, start)) for start in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sum(entry.bytes for entry in _cache(tmp_path, store).entries()) <= 4000


def test_what_a_crash_left_half_done_is_swept_at_the_next_start(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path / "made")
    half = tmp_path / "cache" / ".incoming" / manifest.adapter_digest.removeprefix("sha256:")
    half.mkdir(parents=True)
    (half / "calibration.json").write_bytes(b"{")
    cache = _cache(tmp_path, store)
    assert _leftovers(tmp_path) == []
    assert cache.fetch(manifest).is_dir()


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path / "made")
    cache = _cache(tmp_path, store)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StorageError, match="No space left"):
        cache.fetch(manifest)
    assert _leftovers(tmp_path) == []


def test_victims_are_the_longest_unused_and_no_more_than_needed() -> None:
    entries = [CacheEntry("new", 10, 3.0), CacheEntry("old", 10, 1.0), CacheEntry("middle", 10, 2.0)]
    assert [entry.name for entry in victims(entries, 30)] == []
    assert [entry.name for entry in victims(entries, 25)] == ["old"]
    assert [entry.name for entry in victims(entries, 20)] == ["old"]
    assert [entry.name for entry in victims(entries, -5)] == ["old", "middle", "new"]


def _use(directory: Path, manifests: list[Manifest], start: int) -> None:
    cache = NodeCache(directory / "cache", 2000, LocalStore(directory / "objects"))
    for i in range(40):
        manifest = manifests[(start + i * (start + 1)) % len(manifests)]
        with cache.reading(manifest) as found:
            sizes = {path.name: path.stat().st_size for path in found.iterdir()}
            assert sizes == {file.name: file.bytes for file in manifest.files}
