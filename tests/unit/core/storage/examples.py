"""An adapter's directory and its facts, small enough to read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.storage.manifest import Manifest
from core.storage.object_store import ObjectStore
from core.storage.publication import upload_adapter

TENANT = "tenant_" + "a" * 26
MEMORY = "mem_" + "b" * 26
JOB = "job_" + "c" * 26
BASE = "sha256:" + "d" * 64

FILES = {
    "adapter_model.safetensors": b"weights " * 50,
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "calibration.json": b'{"samples": []}',
    "index.safetensors": b"vectors " * 20,
    "index.json": b'{"title": "A manual"}',
}


def adapter_directory(directory: Path, **other: bytes) -> Path:
    """The files of `FILES`, with the weights replaced by `other["weights"]` where given."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    if "weights" in other:
        (directory / "adapter_model.safetensors").write_bytes(other["weights"])
    return directory


def facts(**changes: Any) -> dict[str, Any]:
    """What `upload_adapter` asks for beside store and directory."""
    return {
        "tenant_id": TENANT,
        "memory_id": MEMORY,
        "job_id": JOB,
        "version": 1,
        "epoch": 1,
        "token": "0123abcd",
        "base_name": "tiny",
        "base_digest": BASE,
        "encoder": "encoder",
        "activation_tokens": (1, 2),
        "rank": 4,
        "targets": ("up_proj",),
        "training": {"loss": 0.5},
        "gate": {"threshold": 0.5},
        "seconds_by_phase": {"training": 1.5},
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    } | changes


def published(store: ObjectStore, directory: Path, weights: bytes = b"weights " * 50, **changes: Any) -> Manifest:
    """A manifest whose files are in `store`."""
    manifest, _ = upload_adapter(store, adapter_directory(directory, weights=weights), **facts(**changes))
    return manifest
