"""Which folders are synced, and when again: the real file system, with the syncs noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.storage import durable_folders
from core.storage.durable_folders import DurableFolders


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were synced, in order."""
    noted: list[Path] = []
    real: Callable[[Path], None] = durable_folders.sync_folder

    def sync(folder: Path) -> None:
        real(folder)
        noted.append(folder)

    monkeypatch.setattr(durable_folders, "sync_folder", sync)
    return noted


def test_every_name_up_to_the_root_is_synced_and_each_only_once(tmp_path: Path, synced: list[Path]) -> None:
    folders = DurableFolders(tmp_path)
    folders.make(tmp_path / "a/b/c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    folders.make(tmp_path / "a/b/c")
    folders.make(tmp_path / "a/b/d")
    assert synced[3:] == [tmp_path / "a/b"]
    assert (tmp_path / "a/b/c").is_dir()
    assert (tmp_path / "a/b/d").is_dir()


def test_what_another_made_is_synced_too(tmp_path: Path, synced: list[Path]) -> None:
    """It may not have come to it yet."""
    (tmp_path / "a/b").mkdir(parents=True)
    DurableFolders(tmp_path).make(tmp_path / "a/b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_a_folder_that_was_removed_and_made_again_is_another_one(tmp_path: Path, synced: list[Path]) -> None:
    folders = DurableFolders(tmp_path)
    for make_again in (lambda: None, (tmp_path / "a/b").mkdir):
        folders.make(tmp_path / "a/b")
        (tmp_path / "a/b").rmdir()
        make_again()
        synced.clear()
        folders.make(tmp_path / "a/b")
        assert synced == [tmp_path / "a"]


def test_descriptors_are_bounded_and_given_back(tmp_path: Path) -> None:
    before = _open_files()
    folders = DurableFolders(tmp_path)
    for number in range(durable_folders._KEPT + 50):
        folders.make(tmp_path / str(number))
    assert _open_files() - before == durable_folders._KEPT
    folders.close()
    assert _open_files() == before
    folders.make(tmp_path / "0")


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OSError):
        DurableFolders(tmp_path).make(tmp_path / "a/b")


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
