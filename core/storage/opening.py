"""The object store that the settings name."""

from __future__ import annotations

from pathlib import Path

from core.errors import InvalidKey, SetupError
from core.settings import Settings
from core.storage.local import LocalStore
from core.storage.object_store import ObjectStore
from core.storage.s3 import S3Store


def open_store(settings: Settings) -> ObjectStore:
    """`file:///directory` or `s3://bucket/prefix`; raises `SetupError` for anything else. Nothing is reached yet."""
    url = settings.resolved_object_url
    if url.startswith("file://"):
        return LocalStore(Path(url.removeprefix("file://")).expanduser().absolute())
    if url.startswith("s3://"):
        return _open_s3(url, settings)
    raise SetupError(f"LATENTBANK_STORAGE__URL is {url!r}; use file:///directory or s3://bucket/prefix.")


def _open_s3(url: str, settings: Settings) -> S3Store:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise SetupError(f"LATENTBANK_STORAGE__URL is {url!r} and names no bucket; use s3://bucket/prefix.")
    try:
        return S3Store(bucket, prefix, settings.storage)
    except (InvalidKey, ValueError) as problem:
        raise SetupError(f"The object store can't be opened, check the LATENTBANK_STORAGE__ settings: {problem}") from (
            problem
        )
