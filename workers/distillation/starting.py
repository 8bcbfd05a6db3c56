"""What a memory's run starts from: its context and, for a new version, the adapter that is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.adapters.validation import validate_adapter
from core.errors import AdapterInvalid, ObjectCorrupt, StorageError
from core.storage.manifest import Manifest, ManifestFile, describe_file
from core.storage.publication import read_manifest
from core.storage.retries import retrying
from core.truth.records import Claim
from workers.distillation.exports import Exports
from workers.distillation.runs import MemoryRequest

_STORE_ATTEMPTS = 4


def place_memory(
    directory: Path, claim: Claim, context: bytes, exports: Exports, tell: Callable[[str], None]
) -> MemoryRequest:
    """Puts into the run's directory what the trainer needs for one memory; `tell` hears of a start from scratch.

    May be called again after an error.
    """
    memory = claim.memory
    context_path = directory / f"{memory.id}.json"
    context_path.write_bytes(context)
    export = directory / memory.id
    export.mkdir(exist_ok=True)
    start_from = None
    if memory.manifest_key is not None:
        try:
            start_from = _fetch(exports, memory.manifest_key, directory / f"{memory.id}.start")
        except (StorageError, AdapterInvalid) as problem:
            tell(f"The published version can't be built on, so this one is made from scratch: {problem.message}")
    return MemoryRequest(
        memory_id=memory.id,
        tenant_id=memory.tenant_id,
        title=memory.title,
        kind=memory.kind,
        context_path=str(context_path),
        directory=str(export),
        start_from=None if start_from is None else str(start_from),
    )


def _fetch(exports: Exports, manifest_key: str, directory: Path) -> Path:
    """The published adapter's files, verified and fit for this base and recipe."""
    manifest = retrying(lambda: read_manifest(exports.store, manifest_key), attempts=_STORE_ATTEMPTS)
    if manifest.rank != exports.recipe.rank:
        raise AdapterInvalid(f"It has rank {manifest.rank}, and the recipe {exports.recipe.rank}.")
    directory.mkdir(exist_ok=True)
    for file in manifest.files:
        (directory / file.name).write_bytes(_read(exports, manifest, file))
    validate_adapter(directory, expected_layers=exports.expected_layers, base_digest=exports.base.digest)
    return directory


def _read(exports: Exports, manifest: Manifest, file: ManifestFile) -> bytes:
    def read() -> bytes:
        data = exports.store.get(manifest.key_of(file))
        if describe_file(file.name, data) != file:
            raise ObjectCorrupt(f"{file.name} is not what was published.")
        return data

    return retrying(read, attempts=_STORE_ATTEMPTS)
