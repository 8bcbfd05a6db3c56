"""The manifest of an adapter: what it consists of and where it comes from. Immutable once written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from core.errors import ObjectCorrupt
from core.ids import is_id
from core.storage.keys import KeyOwner, manifest_key, owner_of

FORMAT = 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[a-z0-9_]{1,100}\.(json|safetensors)")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of the adapter: its name, which is never a path, its size in bytes and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not is_file_name(self.name):
            raise ObjectCorrupt(f"{self.name[:80]!r} is not the name of an adapter's file.")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One attempt at one version of a memory's adapter.

    `prefix` is the folder of the object store that holds the files and the manifest itself. `adapter_digest` covers the
    names and hashes of all files. `created_at` is ISO 8601 in UTC. `training`, `gate`, `seconds_by_phase` are reports.
    """

    memory_id: str
    tenant_id: str
    job_id: str
    version: int
    epoch: int
    prefix: str
    adapter_digest: str
    files: tuple[ManifestFile, ...]
    base_name: str
    base_digest: str
    encoder: str
    activation_tokens: tuple[int, ...]
    rank: int
    targets: tuple[str, ...]
    training: dict[str, Any]
    gate: dict[str, Any]
    seconds_by_phase: dict[str, float]
    created_at: str
    format: int = FORMAT

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def key_of(self, file: ManifestFile) -> str:
        return f"{self.prefix}/{file.name}"

    def to_json(self) -> str:
        """Raises `ValueError` or `TypeError` where a report holds what JSON can't, NaN included."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """Reads and checks a manifest; raises `ObjectCorrupt` where a field is missing, odd or contradicts another."""
        try:
            return _checked(_from_fields(json.loads(text)))
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise ObjectCorrupt(f"The manifest can't be used: {problem!r:.300}") from problem


def digest_of(files: Iterable[ManifestFile]) -> str:
    """`sha256:<hex>` over each file's name and hash, sorted by name."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        total.update(f"{file.name}\0{file.sha256}\n".encode())
    return f"sha256:{total.hexdigest()}"


def describe_file(name: str, data: bytes) -> ManifestFile:
    return ManifestFile(name, len(data), hashlib.sha256(data).hexdigest())


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def is_file_name(name: str) -> bool:
    """Only JSON and safetensors are ever part of an adapter."""
    return _FILE_NAME.fullmatch(name) is not None


def _from_fields(fields: Mapping[str, Any]) -> Manifest:
    return Manifest(
        **{
            **fields,
            "files": tuple(ManifestFile(**file) for file in fields["files"]),
            "activation_tokens": tuple(fields["activation_tokens"]),
            "targets": tuple(fields["targets"]),
        }
    )


def _checked(manifest: Manifest) -> Manifest:
    for problem, found in (
        ("format", manifest.format != FORMAT),
        ("job_id", not _is_text(manifest.job_id) or not is_id("job", manifest.job_id)),
        ("version", not _is_count(manifest.version) or not _is_count(manifest.epoch)),
        ("files", not manifest.files or not all(map(_is_good_file, manifest.files))),
        ("names", len({file.name for file in manifest.files}) != len(manifest.files)),
        ("adapter_digest", manifest.adapter_digest != digest_of(manifest.files)),
        ("base_digest", not _is_text(manifest.base_digest) or not is_digest(manifest.base_digest)),
        ("texts", not all(map(_is_text, (manifest.base_name, manifest.encoder, manifest.created_at)))),
        ("activation_tokens", not manifest.activation_tokens or not all(map(_is_count, manifest.activation_tokens))),
        ("rank", not _is_count(manifest.rank) or manifest.rank == 0),
        ("targets", not manifest.targets or not all(map(_is_text, manifest.targets))),
        (
            "reports",
            not all(isinstance(d, dict) for d in (manifest.training, manifest.gate, manifest.seconds_by_phase)),
        ),
    ):
        if found:
            raise ValueError(problem)
    owner = owner_of(manifest_key(manifest.prefix))
    if owner != KeyOwner(manifest.tenant_id, manifest.memory_id, manifest.prefix, manifest.version, manifest.epoch):
        raise ValueError("prefix")
    return manifest


def _is_good_file(file: ManifestFile) -> bool:
    return _is_count(file.bytes) and _is_text(file.sha256) and _SHA256.fullmatch(file.sha256) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
