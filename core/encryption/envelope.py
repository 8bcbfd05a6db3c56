"""One sealed object: a header that names the key, a nonce, and the bytes under AES-256-GCM (NIST SP 800-38D).

    00 4C 42 45 01 | key id, 30 ASCII characters | nonce, 12 bytes | ciphertext and tag, 16 bytes longer than the object

The header and the object's own key are associated data, so that no object can be put in place of another. No object of
ours begins like that unsealed: neither JSON nor safetensors can.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import ObjectCorrupt
from core.ids import is_id

KEY_BYTES = 32
_MAGIC = b"\x00LBE\x01"
_ID_BYTES = 30
_NONCE_BYTES = 12
_HEADER_BYTES = len(_MAGIC) + _ID_BYTES


def seal(data: bytes, object_key: str, key_id: str, cipher: AESGCM) -> bytes:
    """`data` under the key `key_id`, to be stored as `object_key` and nowhere else."""
    header = _MAGIC + key_id.encode("ascii")
    nonce = os.urandom(_NONCE_BYTES)
    return header + nonce + cipher.encrypt(nonce, data, _bound(header, object_key))


def is_sealed(data: bytes) -> bool:
    return data.startswith(_MAGIC)


def key_id_of(sealed: bytes, object_key: str) -> str:
    """Which key opens it. Raises `ObjectCorrupt` where the header is not whole."""
    key_id = sealed[len(_MAGIC) : _HEADER_BYTES].decode("ascii", "replace")
    if not is_id("dek", key_id):
        raise ObjectCorrupt(f"The sealed object {object_key} names no key.")
    return key_id


def unseal(sealed: bytes, object_key: str, cipher: AESGCM) -> bytes:
    """The bytes that were sealed. Raises `ObjectCorrupt` where a bit differs, or it was stored under another key."""
    header, rest = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:]
    try:
        return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound(header, object_key))
    except (InvalidTag, ValueError) as broken:
        raise ObjectCorrupt(f"The object {object_key} is not what was sealed under that key.") from broken


def _bound(header: bytes, object_key: str) -> bytes:
    return header + object_key.encode()
