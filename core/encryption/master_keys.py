"""Master keys: they wrap the tenants' data keys and encrypt nothing else. They come from the settings or a file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from core.encryption.envelope import KEY_BYTES
from core.errors import MasterKeyMissing, ObjectCorrupt, SetupError
from core.settings import Settings

FILE_NAME = "master.key"
_NONCE_BYTES = 12
_HOW = 'make one with: python3 -c "import os, base64; print(base64.b64encode(os.urandom(32)).decode())"'


class MasterKeys:
    """The first one wraps; all of them unwrap. A key is named by a digest of it, which tells nothing of the key."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_id_of(key): AESGCM(key) for key in keys}
        self.id = next(iter(self._keys))

    def __contains__(self, master_id: str) -> bool:
        return master_id in self._keys

    def wrap(self, data_key: bytes, tenant_id: str, key_id: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._keys[self.id].encrypt(nonce, data_key, _bound(tenant_id, key_id))

    def unwrap(self, wrapped: bytes, master_id: str, tenant_id: str, key_id: str) -> bytes:
        """Raises `MasterKeyMissing`, and `ObjectCorrupt` where the wrapped key is not the one of tenant and id."""
        if master_id not in self._keys:
            raise MasterKeyMissing(f"The key {key_id} is wrapped by the master key {master_id}, which is not set here.")
        try:
            nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
            return self._keys[master_id].decrypt(nonce, ciphertext, _bound(tenant_id, key_id))
        except (InvalidTag, ValueError) as broken:
            raise ObjectCorrupt(f"The wrapped key {key_id} is not what the master key {master_id} wrapped.") from broken


def open_master_keys(settings: Settings) -> MasterKeys:
    """`LATENTBANK_MASTER_KEY`, then `LATENTBANK_OLD_MASTER_KEYS`, then the file in the data directory.

    The embedded stack makes that file where no key is set. Raises `SetupError` where a key is none, and where a cluster
    has none: each of its machines would make another one.
    """
    older = [_decoded(text, "LATENTBANK_OLD_MASTER_KEYS") for text in _given(settings.old_master_keys)]
    path = settings.data_dir / FILE_NAME
    if settings.master_key is not None and settings.master_key.get_secret_value():
        current = _decoded(settings.master_key.get_secret_value(), "LATENTBANK_MASTER_KEY")
        return MasterKeys([current, *older, *([_read(path)] if path.exists() else [])])
    if not is_embedded(settings):
        raise SetupError(
            "LATENTBANK_MASTER_KEY is not set; with PostgreSQL or S3 every process needs the same one, and what is "
            f"stored can't be read without it. To begin, {_HOW}"
        )
    return MasterKeys([_read(path) if path.exists() else _make(path), *older])


def is_embedded(settings: Settings) -> bool:
    """SQLite and a local directory: everything is on this machine."""
    return settings.resolved_database_url.startswith("sqlite") and settings.resolved_object_url.startswith("file://")


def _given(secret: SecretStr | None) -> list[str]:
    return [part.strip() for part in secret.get_secret_value().split(",") if part.strip()] if secret else []


def _decoded(text: str, name: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SetupError(f"{name} is not 32 bytes in base64; {_HOW}")
    return key


def _read(path: Path) -> bytes:
    try:
        return _decoded(path.read_text(encoding="ascii").strip(), str(path))
    except (OSError, UnicodeDecodeError) as problem:
        raise SetupError(f"The master key in {path} can't be read: {problem}") from problem


def _make(path: Path) -> bytes:
    """Whole, durable and 0600 before it has its name; of processes that do it at once the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return _read(path)


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"latentbank master key " + key).hexdigest()[:16]


def _bound(tenant_id: str, key_id: str) -> bytes:
    return f"{tenant_id}/{key_id}".encode()
