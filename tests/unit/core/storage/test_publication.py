"""Publication over a store that fails as scripted: whatever happens, a manifest never names what is not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from core.errors import AdapterInvalid, ObjectCorrupt, StorageError
from core.storage.keys import adapter_prefix, version_prefix
from core.storage.memory import MemoryStore
from core.storage.object_store import ObjectStore
from core.storage.publication import delete_folder, find_manifest, read_manifest, upload_adapter
from tests.fixtures.flaky_store import Fault, FlakyStore
from tests.unit.core.storage.examples import BASE, FILES, JOB, MEMORY, TENANT, adapter_directory, facts, published

VERSION = version_prefix(TENANT, MEMORY, 1)


def _no_pause(seconds: float) -> None:
    assert 0 < seconds <= 2


def _upload(store: ObjectStore, directory: Path) -> str:
    return upload_adapter(store, adapter_directory(directory), **facts(), attempts=3, sleep=_no_pause)[1]


def _is_whole(store: ObjectStore, key: str) -> bool:
    manifest = read_manifest(store, key)
    return all(hashlib.sha256(store.get(manifest.key_of(file))).hexdigest() == file.sha256 for file in manifest.files)


def test_the_manifest_is_written_last_and_names_every_file(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore())
    key = _upload(store, tmp_path)
    prefix = adapter_prefix(TENANT, MEMORY, 1, 1, "0123abcd")
    assert key == f"{prefix}/manifest.json"
    assert store.keys_of("put") == [*(f"{prefix}/{name}" for name in _in_order(store, key)), key]
    assert {file.name for file in read_manifest(store, key).files} == set(FILES)


def test_everything_that_is_put_is_read_back_before_the_next_put(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore())
    _upload(store, tmp_path)
    operations = [operation for operation, _ in store.calls]
    assert operations == ["put", "get"] * (len(FILES) + 1)


@pytest.mark.parametrize("fault", ["unavailable", "truncated", "corrupted", "late_success"])
@pytest.mark.parametrize("operation", ["put", "get"])
@pytest.mark.parametrize("at", range(len(FILES) + 1))
def test_one_fault_anywhere_is_mended(tmp_path: Path, operation: str, fault: Fault, at: int) -> None:
    store = FlakyStore(MemoryStore(), **{operation: ["ok"] * at + [fault]})
    assert _is_whole(store, _upload(store, tmp_path))


@pytest.mark.parametrize("fault", ["unavailable", "truncated", "corrupted"])
@pytest.mark.parametrize("at", range(len(FILES)))
def test_a_file_that_can_never_be_stored_leaves_no_manifest(tmp_path: Path, fault: Fault, at: int) -> None:
    store = FlakyStore(MemoryStore(), put=["ok"] * at + [fault] * 3)
    with pytest.raises(StorageError):
        _upload(store, tmp_path)
    assert find_manifest(store, VERSION) is None
    assert not [key for key in store.keys_of("put") if key.endswith("manifest.json")]


def test_bytes_that_stay_wrong_are_said_to_be_corrupt(tmp_path: Path) -> None:
    with pytest.raises(ObjectCorrupt):
        _upload(FlakyStore(MemoryStore(), put=["corrupted"] * 3), tmp_path)


def test_a_manifest_whose_writer_saw_only_timeouts_is_adopted(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore(), put=["ok"] * len(FILES) + ["late_success"] * 3)
    with pytest.raises(StorageError):
        _upload(store, tmp_path)
    found = find_manifest(store, VERSION, job_id=JOB, base_digest=BASE)
    assert found is not None
    assert _is_whole(store, found[1])


def test_the_latest_epoch_is_adopted(tmp_path: Path) -> None:
    store = MemoryStore()
    for epoch in (2, 10, 9):
        published(store, tmp_path, epoch=epoch)
    found = find_manifest(store, VERSION)
    assert found is not None
    assert found[0].epoch == 10


@pytest.mark.parametrize("damage", ["missing", "other bytes", "half a manifest"])
def test_an_attempt_that_is_not_whole_is_passed_over(tmp_path: Path, damage: str) -> None:
    store = MemoryStore()
    older = published(store, tmp_path, epoch=1)
    newer = published(store, tmp_path, epoch=2)
    key = newer.key_of(newer.files[-1])
    if damage == "missing":
        store.delete(key)
    elif damage == "other bytes":
        store.put(key, b"x" * newer.files[-1].bytes)
    else:
        store.put(f"{newer.prefix}/manifest.json", newer.to_json().encode()[:100])
    found = find_manifest(store, VERSION, attempts=2, sleep=_no_pause)
    assert found is not None
    assert found[0] == older


def test_another_jobs_or_another_bases_attempt_is_not_adopted(tmp_path: Path) -> None:
    store = MemoryStore()
    published(store, tmp_path)
    assert find_manifest(store, VERSION, job_id="job_" + "z" * 26) is None
    assert find_manifest(store, VERSION, base_digest="sha256:" + "0" * 64) is None
    assert find_manifest(store, version_prefix(TENANT, MEMORY, 2)) is None


def test_a_store_that_fails_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore(), list=["unavailable"] * 3)
    published(store.store, tmp_path)
    with pytest.raises(StorageError):
        find_manifest(store, VERSION, attempts=3, sleep=_no_pause)


def test_a_manifest_can_not_speak_for_another_folder(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = published(store, tmp_path)
    elsewhere = f"{adapter_prefix(TENANT, MEMORY, 1, 9, 'x')}/manifest.json"
    store.put(elsewhere, manifest.to_json().encode())
    with pytest.raises(ObjectCorrupt):
        read_manifest(store, elsewhere)


def test_only_the_files_of_an_adapter_are_published(tmp_path: Path) -> None:
    adapter_directory(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"pickle")
    (tmp_path / "notes.json").write_bytes(b"{}")
    store = MemoryStore()
    manifest = published(store, tmp_path)
    assert {file.name for file in manifest.files} == set(FILES)
    assert len(list(store.list(""))) == len(FILES) + 1


def test_an_adapter_without_weights_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    directory = adapter_directory(tmp_path / "adapter")
    weights = directory / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    for prepare in (lambda: None, lambda: weights.symlink_to(tmp_path / "elsewhere")):
        prepare()
        with pytest.raises(AdapterInvalid, match=r"adapter_model\.safetensors"):
            upload_adapter(MemoryStore(), directory, **facts())


@pytest.mark.parametrize("report", [{"loss": float("nan")}, {"loss": object()}])
def test_a_report_that_json_can_not_hold_is_refused_before_anything_is_written(
    tmp_path: Path, report: dict[str, object]
) -> None:
    store = FlakyStore(MemoryStore())
    with pytest.raises(AdapterInvalid):
        upload_adapter(store, adapter_directory(tmp_path), **facts(training=report))
    assert store.calls == []


def test_deleting_a_folder_takes_the_manifest_first(tmp_path: Path) -> None:
    store = FlakyStore(MemoryStore())
    manifest = published(store.store, tmp_path)
    assert delete_folder(store, manifest.prefix) == len(FILES) + 1
    assert store.keys_of("delete")[0] == f"{manifest.prefix}/manifest.json"
    assert list(store.list("")) == []


def _in_order(store: ObjectStore, key: str) -> list[str]:
    return [file.name for file in read_manifest(store, key).files]
