"""The node's cache under several real processes: one download, and nothing half done that is ever served."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from core.storage.local import LocalStore
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from tests.unit.core.storage.examples import FILES, published

PROCESSES = 6
SPAWN = multiprocessing.get_context("spawn")


class CountingStore(LocalStore):
    """Notes each download as a line of a file that all processes share, and takes its time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "objects")
        self._log = directory / "downloads"

    def download(self, key: str, path: Path) -> None:
        with self._log.open("a") as log:
            log.write(f"{key}\n")
        # Long enough for every other process to come and find the download under way.
        time.sleep(0.1)
        super().download(key, path)


def _cache(directory: Path) -> NodeCache:
    return NodeCache(directory / "cache", 10**9, CountingStore(directory))


def _downloads(directory: Path) -> list[str]:
    return (directory / "downloads").read_text().split()


def test_processes_that_ask_at_once_download_an_adapter_once(tmp_path: Path) -> None:
    manifest = published(LocalStore(tmp_path / "objects"), tmp_path / "made")
    together = SPAWN.Barrier(PROCESSES)
    processes = [SPAWN.Process(target=_ask, args=(tmp_path, manifest, together)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert sorted(_downloads(tmp_path)) == sorted(manifest.key_of(file) for file in manifest.files)


@pytest.mark.parametrize("new", [True, False])
def test_a_process_killed_between_download_and_rename_leaves_nothing_that_is_served(tmp_path: Path, new: bool) -> None:
    manifest = published(LocalStore(tmp_path / "objects"), tmp_path / "made")
    running = _cache(tmp_path)
    process = SPAWN.Process(target=_die_before_rename, args=(tmp_path, manifest))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(_downloads(tmp_path)) == len(FILES)
    half = tmp_path / "cache" / ".incoming" / manifest.adapter_digest.removeprefix("sha256:")
    assert {path.name for path in half.iterdir()} == set(FILES)
    # One that runs on must not trust what lies there; one that starts sweeps it away.
    cache = _cache(tmp_path) if new else running
    assert half.exists() != new
    assert not cache.contains(manifest.adapter_digest)
    assert cache.entries() == []
    with cache.reading(manifest) as found:
        assert {path.name: path.read_bytes() for path in found.iterdir()} == FILES
    assert not half.exists()
    assert len(_downloads(tmp_path)) == 2 * len(FILES)


def _ask(directory: Path, manifest: Manifest, together: Barrier) -> None:
    cache = _cache(directory)
    together.wait(timeout=60)
    with cache.reading(manifest) as found:
        assert {path.name: path.read_bytes() for path in found.iterdir()} == FILES


def _die_before_rename(directory: Path, manifest: Manifest) -> None:
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if path.parent.name == ".incoming":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.rename = dying  # type: ignore[method-assign,assignment]
    _cache(directory).fetch(manifest)
