from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from core.errors import SetupError
from core.settings import Settings, StorageSettings
from core.storage.local import LocalStore
from core.storage.opening import open_store
from core.storage.s3 import S3Store


def _settings(directory: Path, **storage: Any) -> Settings:
    return Settings(_env_file=None, data_dir=directory, storage=StorageSettings(**storage))


def test_without_a_url_objects_live_in_the_data_directory(tmp_path: Path) -> None:
    store = open_store(_settings(tmp_path / "with space#and%20more"))
    assert isinstance(store, LocalStore)
    store.put("a", b"x")
    assert (tmp_path / "with space#and%20more" / "objects" / "a").read_bytes() == b"x"


def test_a_file_url_names_the_directory(tmp_path: Path) -> None:
    open_store(_settings(tmp_path, url=f"file://{tmp_path}/elsewhere")).put("a", b"x")
    assert (tmp_path / "elsewhere" / "a").read_bytes() == b"x"


def test_an_s3_url_opens_without_reaching_the_server(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        url="s3://bucket/some/prefix",
        endpoint="http://127.0.0.1:1",
        access_key=SecretStr("a"),
        secret_key=SecretStr("b"),
    )
    assert isinstance(open_store(settings), S3Store)


@pytest.mark.parametrize("url", ["http://host/bucket", "memory://", "s3://", "/just/a/path", "s3://bucket/../up"])
def test_any_other_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SetupError, match="LATENTBANK_STORAGE__"):
        open_store(_settings(tmp_path, url=url))


def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        open_store(_settings(tmp_path, url="s3://bucket", endpoint="not a url"))
