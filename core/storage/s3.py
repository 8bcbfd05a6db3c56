"""Objects in a bucket of any S3: AWS, MinIO, Ceph, a gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from core.errors import ObjectMissing, SetupError, StorageError
from core.settings import StorageSettings
from core.storage.object_store import BINARY, ObjectInfo, check_key, folder, is_key

_CHUNK_BYTES = 1 << 20
_CONNECTIONS = 32
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_NO_BUCKET = "NoSuchBucket"
_HAVE_BUCKET = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})

T = TypeVar("T")


class S3Store:
    """Keys live under `prefix` in `bucket`. One client serves all threads; open the store after a fork, not before.

    Without keys in the settings boto3 looks for credentials where it always does (profile, role, instance).
    """

    def __init__(self, bucket: str, prefix: str, settings: StorageSettings, *, page_objects: int = 1000) -> None:
        self._bucket = bucket
        self._prefix = folder(prefix)
        self._attempts = settings.max_attempts
        self._page = {"PageSize": page_objects}
        self._client = _client(settings)

    def put(self, key: str, data: bytes, content_type: str = BINARY) -> None:
        full = self._full(key)
        for left in reversed(range(self._attempts)):
            try:
                with _failures(f"put {key}"):
                    self._client.put_object(Bucket=self._bucket, Key=full, Body=data, ContentType=content_type)
                return
            except ObjectMissing as refusal:
                # A gateway over a file system answers 404 to a put whose folder a delete has just emptied and removed.
                if not left:
                    raise StorageError(f"The object store refused to put {key}: not found.") from refusal

    def get(self, key: str) -> bytes:
        return self._read(key, b"".join)

    def head(self, key: str) -> ObjectInfo | None:
        """As the protocol says; a bucket that does not exist looks like a missing object, see `check`."""
        full = self._full(key)
        try:
            with _failures(f"head {key}"):
                answer = self._client.head_object(Bucket=self._bucket, Key=full)
        except ObjectMissing:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        full = self._prefix + folder(prefix)
        paginator = self._client.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self._bucket, Prefix=full, PaginationConfig=self._page)
        with _failures(f"list {prefix}"):
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield ObjectInfo(key, entry["Size"], entry["LastModified"])

    def delete(self, key: str) -> None:
        full = self._full(key)
        try:
            with _failures(f"delete {key}"):
                self._client.delete_object(Bucket=self._bucket, Key=full)
        except ObjectMissing:
            return

    def download(self, key: str, path: Path) -> None:
        try:
            self._read(key, lambda chunks: _write(path, chunks))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def check(self) -> None:
        try:
            with _failures(f"reach the bucket {self._bucket}"):
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except StorageError as failure:
            if isinstance(failure.__cause__, ClientError) and _code(failure.__cause__) == _NO_BUCKET:
                raise SetupError(f"The bucket {self._bucket} does not exist; create it first.") from failure
            raise

    def create_bucket(self) -> None:
        """Makes the bucket where there is none; for set-up, not for a running process."""
        with _failures(f"create the bucket {self._bucket}"):
            try:
                self._client.create_bucket(Bucket=self._bucket, **_location(self._client.meta.region_name))
            except ClientError as refusal:
                if _code(refusal) not in _HAVE_BUCKET:
                    raise

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _read(self, key: str, use: Callable[[Iterator[bytes]], T]) -> T:
        """What `use` makes of the body. botocore retries a request, but not a body that breaks off: done here."""
        full = self._full(key)
        for left in reversed(range(self._attempts)):
            with _failures(f"get {key}"):
                body = self._client.get_object(Bucket=self._bucket, Key=full)["Body"]
                try:
                    return use(body.iter_chunks(_CHUNK_BYTES))
                except BotoCoreError:
                    if not left:
                        raise
                finally:
                    body.close()
        raise StorageError(f"No attempt was allowed to get {key}.")


def _client(settings: StorageSettings) -> Any:
    # A session of its own: boto3's default session is not safe to make clients from in several threads.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        aws_access_key_id=settings.access_key.get_secret_value() if settings.access_key else None,
        aws_secret_access_key=settings.secret_key.get_secret_value() if settings.secret_key else None,
        config=Config(
            region_name=settings.region,
            s3={"addressing_style": "path" if settings.path_style else "auto"},
            retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
            request_checksum_calculation=settings.checksums,
            response_checksum_validation=settings.checksums,
            connect_timeout=settings.timeout_seconds,
            read_timeout=settings.timeout_seconds,
            max_pool_connections=_CONNECTIONS,
        ),
    )


@contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except ClientError as refusal:
        code = _code(refusal)
        if code in _MISSING:
            raise ObjectMissing(f"There is nothing to {what}.") from refusal
        raise StorageError(f"The object store refused to {what}: {code}.") from refusal
    except BotoCoreError as failure:
        raise StorageError(f"The object store could not {what}: {type(failure).__name__}.") from failure


def _code(refusal: ClientError) -> str:
    return str(refusal.response.get("Error", {}).get("Code", "unknown"))


def _location(region: str) -> dict[str, Any]:
    """us-east-1 is the default and must not be named."""
    return {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    try:
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except OSError as failure:
        raise StorageError(f"The file {path} could not be written: {failure.strerror}.") from failure
