"""An export of a tenant's data as a file: whether it is whole. `gateway/exporting.py` says what is in it."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from core.errors import ObjectCorrupt

FORMAT = 1
COMPLETE = "complete.json"
"""The last file of an export: what it has, what is lacking, and the SHA-256 of all bytes before it."""


def check_export(path: Path) -> dict[str, Any]:
    """`{memories, files, lacking, sha256}` of a whole export. Raises `ObjectCorrupt` where it is cut off or damaged."""
    try:
        with tarfile.open(path) as tar:
            last = tar.getmember(COMPLETE)
            content = tar.extractfile(last)
            assert content is not None, "it is a file"
            complete: dict[str, Any] = json.load(content)
        found = _sha256(path, last.offset)
    except (tarfile.TarError, KeyError, ValueError) as problem:
        raise ObjectCorrupt(f"{path} is no whole export; ask for it again.") from problem
    if complete.get("sha256") != found:
        raise ObjectCorrupt(f"{path} is not what was sent; ask for it again.")
    return complete


def _sha256(path: Path, most: int) -> str:
    """Of the first `most` bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while most > 0 and (part := file.read(min(most, 1 << 20))):
            total.update(part)
            most -= len(part)
    return total.hexdigest()
