"""To which truth a store and a node's cache belong: two truths on one would remove each other's objects as garbage."""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.errors import Misconfigured, ObjectMissing
from core.storage.object_store import JSON, ObjectStore

MARKER = "truth.json"
"""Beside `tenants/`, where garbage collection never looks."""
_FILE = ".truth"


def claim_store(store: ObjectStore, truth_id: str) -> None:
    """Marks a store that nobody has; raises `Misconfigured` where it is another truth's."""
    try:
        owner = json.loads(store.get(MARKER))["truth"]
    except ObjectMissing:
        store.put(MARKER, json.dumps({"truth": truth_id}).encode(), JSON)
        return
    except (ValueError, KeyError, TypeError):
        owner = "an unreadable one"
    if owner != truth_id:
        raise Misconfigured(
            f"The objects of LATENTBANK_STORAGE__URL belong to another truth ({owner}) than the database ({truth_id}), "
            "and each would remove the other's as garbage; set a bucket or a prefix of its own, or, if the other truth "
            f"is no more, delete the object {MARKER}."
        )


def claim_directory(directory: Path, truth_id: str) -> None:
    """The same for a node's cache of adapters."""
    marker, mine = directory / _FILE, directory / f"{_FILE}-{os.getpid()}"
    mine.write_text(truth_id)
    try:
        marker.hardlink_to(mine)  # whole, or not there: another process of this node may be reading it
    except FileExistsError:
        owner = marker.read_text()
        if owner != truth_id:
            raise Misconfigured(
                f"The node cache {directory} belongs to another truth ({owner}) than the database ({truth_id}); set "
                "LATENTBANK_SERVING__NODE_CACHE_DIR to a directory of its own, or, if the other is no more, empty it."
            ) from None
    finally:
        mine.unlink()
