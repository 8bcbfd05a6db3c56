"""Putting an adapter into the object store so that a crash at any point leaves nothing half published.

Files first, under a folder that no other attempt uses; each is read back and compared; the manifest last. Nothing here
makes an adapter current: the database does, by naming the manifest's key in one guarded update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from core.adapters.files import ADAPTER_FILES, REQUIRED_FILES
from core.errors import AdapterInvalid, ObjectCorrupt, ObjectMissing
from core.logs import get_logger
from core.storage.keys import MANIFEST_NAME, adapter_prefix, manifest_key, owner_of
from core.storage.manifest import Manifest, ManifestFile, describe_file, digest_of
from core.storage.object_store import BINARY, JSON, ObjectStore
from core.storage.retries import retrying

ATTEMPTS = 4

Sleep = Callable[[float], None]


def upload_adapter(
    store: ObjectStore,
    directory: Path,
    *,
    tenant_id: str,
    memory_id: str,
    job_id: str,
    version: int,
    epoch: int,
    token: str,
    base_name: str,
    base_digest: str,
    encoder: str,
    activation_tokens: Sequence[int],
    rank: int,
    targets: Sequence[str],
    training: Mapping[str, Any],
    gate: Mapping[str, Any],
    seconds_by_phase: Mapping[str, float],
    created_at: datetime | None = None,
    attempts: int = ATTEMPTS,
    sleep: Sleep = time.sleep,
) -> tuple[Manifest, str]:
    """Uploads the files of `directory`, reads them back, writes the manifest; returns it and its key.

    Raises `AdapterInvalid` where a file is missing, `StorageError` where the store keeps failing and `ObjectCorrupt`
    where it keeps giving back other bytes; then no manifest was written, or a whole and true one.
    """
    contents = _read_files(directory)
    prefix = adapter_prefix(tenant_id, memory_id, version, epoch, token)
    files = tuple(describe_file(name, data) for name, data in contents.items())
    manifest = Manifest(
        memory_id=memory_id,
        tenant_id=tenant_id,
        job_id=job_id,
        version=version,
        epoch=epoch,
        prefix=prefix,
        adapter_digest=digest_of(files),
        files=files,
        base_name=base_name,
        base_digest=base_digest,
        encoder=encoder,
        activation_tokens=tuple(activation_tokens),
        rank=rank,
        targets=tuple(targets),
        training=dict(training),
        gate=dict(gate),
        seconds_by_phase=dict(seconds_by_phase),
        created_at=(created_at or datetime.now(UTC)).isoformat(),
    )
    text = _as_text(manifest)
    for file in files:
        _put_verified(store, manifest.key_of(file), contents[file.name], attempts, sleep)
    _put_verified(store, manifest_key(prefix), text, attempts, sleep)
    return Manifest.from_json(text), manifest_key(prefix)


def read_manifest(store: ObjectStore, key: str) -> Manifest:
    """The manifest under `key`; raises `ObjectCorrupt` where it is not whole or speaks of another folder."""
    manifest = Manifest.from_json(store.get(key))
    if manifest_key(manifest.prefix) != key:
        raise ObjectCorrupt(f"The manifest {key} names the files of {manifest.prefix}.")
    return manifest


def find_manifest(
    store: ObjectStore,
    prefix: str,
    *,
    job_id: str | None = None,
    base_digest: str | None = None,
    attempts: int = ATTEMPTS,
    sleep: Sleep = time.sleep,
) -> tuple[Manifest, str] | None:
    """The manifest of the latest attempt under `prefix` whose files are all there and true, and its key; else `None`.

    For the attempt after a crash between manifest and commit: with `keys.version_prefix` it looks at all attempts at a
    version. `job_id` and `base_digest`, if given, have to match. A store that fails is not an absence: `StorageError`.
    """
    listed = retrying(lambda: list(store.list(prefix)), attempts=attempts, sleep=sleep)
    keys = [info.key for info in listed if info.key.endswith(f"/{MANIFEST_NAME}")]
    for key in sorted(keys, key=_epoch, reverse=True):
        try:
            manifest = retrying(partial(read_manifest, store, key), attempts=attempts, sleep=sleep)
            if job_id not in (None, manifest.job_id) or base_digest not in (None, manifest.base_digest):
                continue
            _verify(store, manifest, attempts, sleep)
        except (ObjectMissing, ObjectCorrupt) as problem:
            get_logger(__name__).warning("manifest_not_adopted", key=key, problem=problem.message)
            continue
        return manifest, key
    return None


def delete_folder(store: ObjectStore, prefix: str) -> int:
    """Removes every object under `prefix`, manifests first: none ever names a missing file. Returns how many."""
    keys = sorted((info.key for info in store.list(prefix)), key=lambda key: (not key.endswith(MANIFEST_NAME), key))
    for key in keys:
        store.delete(key)
    return len(keys)


def _as_text(manifest: Manifest) -> bytes:
    """The manifest's bytes, after a reader's checks: what nobody could read must not be published."""
    try:
        text = manifest.to_json().encode()
        Manifest.from_json(text)
    except (ValueError, TypeError, ObjectCorrupt) as problem:
        raise AdapterInvalid(f"The adapter can't be described: {problem}") from problem
    return text


def _read_files(directory: Path) -> dict[str, bytes]:
    present = [name for name in ADAPTER_FILES if _is_plain_file(directory / name)]
    missing = sorted(set(REQUIRED_FILES) - set(present))
    if missing:
        raise AdapterInvalid(f"The adapter lacks {', '.join(missing)}.")
    return {name: (directory / name).read_bytes() for name in present}


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _put_verified(store: ObjectStore, key: str, data: bytes, attempts: int, sleep: Sleep) -> None:
    """Puts until a read gives the same bytes. Safe to repeat: key and bytes stay the same."""
    expected = describe_file(key.rsplit("/", 1)[-1], data)

    def put_and_compare() -> None:
        store.put(key, data, JSON if key.endswith(".json") else BINARY)
        _compare(store, key, expected)

    retrying(put_and_compare, attempts=attempts, sleep=sleep)


def _verify(store: ObjectStore, manifest: Manifest, attempts: int, sleep: Sleep) -> None:
    for file in manifest.files:
        retrying(partial(_compare, store, manifest.key_of(file), file), attempts=attempts, sleep=sleep)


def _compare(store: ObjectStore, key: str, expected: ManifestFile) -> None:
    try:
        found = describe_file(expected.name, store.get(key))
    except ObjectMissing as missing:
        raise ObjectCorrupt(f"{key} can't be read back.") from missing
    if found != expected:
        raise ObjectCorrupt(f"{key} has {found.bytes} other bytes than the {expected.bytes} that were written.")


def _epoch(key: str) -> int:
    owner = owner_of(key)
    return -1 if owner is None or owner.epoch is None else owner.epoch
