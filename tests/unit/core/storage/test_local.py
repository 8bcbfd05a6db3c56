from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import StorageError
from core.storage.local import LocalStore


def _files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_a_write_that_fails_leaves_the_old_object_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"old")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            store.put("a/b", b"new")
        with pytest.raises(StorageError):
            store.put("a/c", b"new")
    assert _files(tmp_path) == ["a/b"]
    assert store.get("a/b") == b"old"


def test_files_being_written_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / ".incoming" / "half").write_bytes(b"half")
    (tmp_path / "not a key").write_bytes(b"foreign")
    store.put("a", b"x")
    assert [info.key for info in store.list("")] == ["a"]


def test_a_folder_that_vanishes_when_it_is_found_to_be_there_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    make, calls = os.mkdir, []

    def found_and_gone(path: Path, mode: int = 0o777) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(17, os.strerror(17))
        make(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", found_and_gone)
        store.put("folder/a", b"x")
    assert store.get("folder/a") == b"x"
    assert len(calls) == 2


def test_the_folders_of_deleted_objects_vanish(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b/c", b"x")
    store.put("a/d", b"x")
    store.delete("a/b/c")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["d"]


def test_an_object_can_not_lie_under_another(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"x")
    with pytest.raises(StorageError):
        store.put("a/b", b"x")


def test_a_directory_that_can_not_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        LocalStore(tmp_path / "file" / "objects")


def test_a_directory_that_went_away_fails_the_check(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "objects")
    (tmp_path / "objects" / ".incoming").rmdir()
    with pytest.raises(StorageError):
        store.check()
