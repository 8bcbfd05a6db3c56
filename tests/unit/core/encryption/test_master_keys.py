from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.encryption.master_keys import FILE_NAME, MasterKeys, open_master_keys
from core.errors import MasterKeyMissing, ObjectCorrupt, SetupError
from core.ids import new_id
from core.settings import Settings, StorageSettings

TENANT, KEY = new_id("tenant"), new_id("dek")
FIRST, SECOND = os.urandom(32), os.urandom(32)


def in_base64(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture(autouse=True)
def no_key_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTBANK_MASTER_KEY", raising=False)


def settings(directory: Path, **fields: object) -> Settings:
    return Settings(_env_file=None, data_dir=directory, **{"database_url": "", **fields})  # type: ignore[arg-type]


def test_only_the_master_that_wrapped_a_key_unwraps_it_for_its_tenant_and_id() -> None:
    masters = MasterKeys([FIRST])
    wrapped = masters.wrap(b"data key", TENANT, KEY)
    assert masters.unwrap(wrapped, masters.id, TENANT, KEY) == b"data key"
    assert b"data key" not in wrapped
    for tenant_id, key_id in ((new_id("tenant"), KEY), (TENANT, new_id("dek"))):
        with pytest.raises(ObjectCorrupt):
            masters.unwrap(wrapped, masters.id, tenant_id, key_id)
    with pytest.raises(MasterKeyMissing):
        MasterKeys([SECOND]).unwrap(wrapped, masters.id, TENANT, KEY)


def test_older_masters_unwrap_and_the_first_one_wraps() -> None:
    old = MasterKeys([FIRST])
    both = MasterKeys([SECOND, FIRST])
    assert both.unwrap(old.wrap(b"k", TENANT, KEY), old.id, TENANT, KEY) == b"k"
    assert both.id == MasterKeys([SECOND]).id != old.id


def test_the_embedded_stack_makes_one_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = {masters.id for masters in threads.map(lambda _: open_master_keys(settings(tmp_path)), range(16))}
    assert len(ids) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "fields",
    [{"database_url": "postgresql://db/latentbank"}, {"storage": StorageSettings(url="s3://bucket")}],
    ids=["PostgreSQL", "S3"],
)
def test_a_cluster_without_a_key_refuses_to_start_and_says_what_to_set(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    with pytest.raises(SetupError, match=r"LATENTBANK_MASTER_KEY is not set.*python3 -c"):
        open_master_keys(settings(tmp_path, **fields))
    assert not list(tmp_path.iterdir())
    assert open_master_keys(settings(tmp_path, master_key=in_base64(FIRST), **fields)).id == MasterKeys([FIRST]).id


@pytest.mark.parametrize("text", ["not base64!", in_base64(b"short"), in_base64(b"x" * 33)])
def test_a_key_that_is_none_is_refused_without_being_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError, match="LATENTBANK_MASTER_KEY is not 32 bytes") as refused:
        open_master_keys(settings(tmp_path, master_key=text))
    assert text not in str(refused.value)


def test_a_key_of_the_settings_goes_before_the_file_which_still_unwraps(tmp_path: Path) -> None:
    of_file = open_master_keys(settings(tmp_path))
    rotated = open_master_keys(settings(tmp_path, master_key=in_base64(SECOND), old_master_keys=in_base64(FIRST)))
    assert rotated.id == MasterKeys([SECOND]).id
    assert of_file.id in rotated
    assert MasterKeys([FIRST]).id in rotated
