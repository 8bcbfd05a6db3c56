"""One contract, three stores: the double, a directory, and a real S3 server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from core.errors import InvalidKey, ObjectMissing
from core.storage.local import LocalStore
from core.storage.memory import MemoryStore
from core.storage.object_store import JSON, ObjectStore


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path / "objects")
    found: ObjectStore = request.getfixturevalue("s3_store")
    return found


def test_what_was_put_is_read_back_unchanged(store: ObjectStore) -> None:
    data = bytes(range(256)) * 5000
    store.put("a/b/c.bin", data)
    assert store.get("a/b/c.bin") == data


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("a/empty", b"", JSON)
    assert store.get("a/empty") == b""
    info = store.head("a/empty")
    assert info is not None
    assert info.size == 0


def test_a_second_put_replaces_the_first(store: ObjectStore) -> None:
    store.put("a", b"first, longer")
    store.put("a", b"second")
    assert store.get("a") == b"second"


def test_a_missing_object_is_said_to_be_missing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        store.get("not/there")
    with pytest.raises(ObjectMissing):
        store.download("not/there", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert store.head("not/there") is None


def test_a_folder_is_not_an_object(store: ObjectStore) -> None:
    store.put("a/b/c", b"x")
    assert store.head("a/b") is None
    with pytest.raises(ObjectMissing):
        store.get("a/b")


def test_head_tells_size_and_time(store: ObjectStore) -> None:
    store.put("a/b", b"12345")
    info = store.head("a/b")
    assert info is not None
    assert (info.key, info.size) == ("a/b", 5)
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_listing_holds_the_whole_folder_and_no_neighbour(store: ObjectStore) -> None:
    for key in ("t/one/a", "t/one/deep/er/b", "t/one2/c", "t/other"):
        store.put(key, key.encode())
    assert {(info.key, info.size) for info in store.list("t/one")} == {("t/one/a", 7), ("t/one/deep/er/b", 15)}
    assert {info.key for info in store.list("t/one/")} == {"t/one/a", "t/one/deep/er/b"}
    assert len(list(store.list(""))) == 4
    assert list(store.list("nothing")) == []


def test_a_listing_is_whole_beyond_one_page(store: ObjectStore) -> None:
    keys = {f"many/{i // 4}/{i}" for i in range(17)}
    for key in keys:
        store.put(key, b".")
    assert {info.key for info in store.list("many")} == keys


def test_deleting_twice_is_the_same_as_once(store: ObjectStore) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert store.head("a/b") is None
    assert list(store.list("")) == []


def test_a_download_is_the_object(store: ObjectStore, tmp_path: Path) -> None:
    data = b"0123456789" * 300_000
    store.put("big", data)
    store.download("big", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data


def test_what_is_not_a_key_is_refused_by_every_operation(store: ObjectStore, tmp_path: Path) -> None:
    for key in ("", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".hidden", "a b", "a\\b", "ä", "a\n", "a" * 901):
        for operation in (
            partial(store.put, key, b"x"),
            partial(store.get, key),
            partial(store.head, key),
            partial(store.delete, key),
            partial(store.download, key, tmp_path / "file"),
        ):
            with pytest.raises(InvalidKey):
                operation()


def test_readers_beside_a_writer_see_whole_objects_only(store: ObjectStore) -> None:
    versions = [bytes([i]) * 50_000 for i in range(6)]
    store.put("a/b", versions[0])
    with ThreadPoolExecutor(4) as threads:
        reads = [threads.submit(store.get, "a/b") for _ in range(12)]
        for version in versions:
            store.put("a/b", version)
        seen = [read.result() for read in reads]
    assert all(data in versions for data in seen)


def test_puts_and_deletes_in_one_folder_do_not_disturb_each_other(store: ObjectStore) -> None:
    def use(i: int) -> bytes:
        for _ in range(5):
            store.put(f"shared/folder/{i}", b"x")
            store.delete(f"shared/folder/{i}")
        store.put(f"shared/folder/{i}", str(i).encode())
        return store.get(f"shared/folder/{i}")

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(8))) == [str(i).encode() for i in range(8)]


def test_a_store_that_works_passes_its_check(store: ObjectStore) -> None:
    store.check()
