"""What LatentBank asks of an object store, and which keys it may use.

Three stores keep this contract, held by one test suite: `LocalStore`, `S3Store` and the in-memory double `MemoryStore`.
No caller may rely on conditional writes: not every S3 honours them. Keys are therefore unique per attempt, and whoever
writes reads back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from core.errors import InvalidKey

BINARY = "application/octet-stream"
JSON = "application/json"

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_LONGEST_KEY = 900


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: `size` in bytes, `modified` in UTC by the store's clock."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Immutable bytes under keys. Safe to use from many threads.

    A key is never a folder of another key. Every method raises `InvalidKey` for a key that `check_key` refuses, and
    `StorageError` where the store fails; after a failed `put` the object is absent, whole, or as it was before.
    """

    def put(self, key: str, data: bytes, content_type: str = BINARY) -> None:
        """Writes the whole object or nothing; a reader never sees half of it. Durable on return."""
        ...

    def get(self, key: str) -> bytes:
        """All bytes; raises `ObjectMissing`."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Size and time, or `None` where there is no such object."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object in the folder `prefix`, at any depth, in no promised order; `""` is the whole store."""
        ...

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where it is already gone."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Writes the object to the file `path`, whole, or leaves no file there; raises `ObjectMissing`."""
        ...

    def check(self) -> None:
        """One cheap round trip: raises `StorageError` where the store can't be used, `SetupError` where it must be
        set up first."""
        ...


def check_key(key: str) -> str:
    """Returns `key` if it is relative segments of `[A-Za-z0-9._-]`, none of which starts with a dot."""
    if len(key) > _LONGEST_KEY or not all(map(_SEGMENT.fullmatch, key.split("/"))):
        raise InvalidKey(f"{key[:80]!r} is not an object key.")
    return key


def check_segment(segment: str) -> str:
    """Returns `segment` if it may stand between two slashes of a key."""
    if "/" in segment:
        raise InvalidKey(f"{segment[:80]!r} is not one segment of an object key.")
    return check_key(segment)


def folder(prefix: str) -> str:
    """`prefix` as a checked folder that ends with a slash; `""` stays the whole store."""
    bare = prefix.removesuffix("/")
    return f"{check_key(bare)}/" if bare else ""


def is_key(text: str) -> bool:
    """False for what others may have put beside our objects, such as the folder markers of some stores."""
    try:
        check_key(text)
    except InvalidKey:
        return False
    return True
