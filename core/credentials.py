"""Secrets that callers send: how they are compared, and what they are called where they must not be shown."""

from __future__ import annotations

import base64
import hashlib
import hmac

from pydantic import SecretStr


def is_one_of(given: str, *accepted: SecretStr | None) -> bool:
    """Whether `given` is one of the secrets; an empty one, or none, lets nobody in.

    Constant in time: digests of one length are compared, each with all of `accepted`, whichever fits.
    """
    digest = _digest(given)
    fits = False
    for secret in accepted:
        if secret is not None and secret.get_secret_value():
            fits |= hmac.compare_digest(digest, _digest(secret.get_secret_value()))
    return fits


def key_sha256(key: str) -> str:
    """All that is kept of an API key: 256 random bits need neither salt nor a slow hash."""
    return _digest(key).hex()


def key_id(sha256: str) -> str:
    """What the key of that digest is called: half of the digest, from which nobody guesses the key."""
    half = bytes.fromhex(sha256)[:16]
    return f"key_{base64.b32encode(half).decode().rstrip('=').lower()}"


def sha256_prefix(key_id_: str) -> str:
    """The half of a key's digest that its id was made of, as `key_sha256` writes it."""
    text = key_id_.removeprefix("key_").upper()
    return base64.b32decode(text + "=" * (-len(text) % 8)).hex()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
