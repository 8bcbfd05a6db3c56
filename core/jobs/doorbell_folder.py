"""Kombu's filesystem transport, made safe for readers beside writers. Loaded by name (doorbells.py), never imported.

Kombu's own writes a message in the open and reads whatever is there: a worker that polls in that moment reads half a
message, and ends. Here a message appears whole, by a rename within one disk, and one that can't be read is let go: a
doorbell may be lost. What is taken is removed instead of kept.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

from core.logs import get_logger

_log = get_logger(__name__)


class Channel(filesystem.Channel):
    """Messages are files `<nanoseconds>_<uuid>.<queue>.msg` in the incoming folder; taken ones pass through another."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}.msg"
        unfinished = Path(self.processed_folder, f"{name}.part")
        unfinished.write_text(dumps(payload), encoding="utf-8")
        unfinished.rename(Path(self.data_folder_out, name))

    def _get(self, queue: str) -> Any:
        for found in sorted(Path(self.data_folder_in).iterdir()):
            if found.name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = Path(self.processed_folder, found.name)
            try:
                found.rename(taken)
            except FileNotFoundError:  # another reader was faster
                continue
            try:
                return loads(taken.read_text(encoding="utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError):
                _log.warning("unreadable doorbell dropped", file=found.name)
            finally:
                taken.unlink()
        raise Empty


class Transport(filesystem.Transport):
    Channel = Channel
    global_state = filesystem.virtual.BrokerState()
