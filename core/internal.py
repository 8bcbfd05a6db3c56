"""What gateway and inference workers prove to each other with the secret that they share, which itself never travels.

A request is signed for one worker, one tenant, one address and one body, and serves once, for a minute.
A worker's announcement is signed too: the gateway sends nothing to an address that only the database vouches for.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.settings import Settings

INTERNAL_HEADER = "X-LatentBank-Internal"
TENANT_HEADER = "X-LatentBank-Tenant"
WINDOW_SECONDS = 60
"""How far a signature's time may lie from the clock of who checks it."""
PROOF = "proof"
"""Where in an announcement's `info` its signature is."""

_VERSION = "v1"


@dataclass(frozen=True, slots=True)
class Secrets:
    """The first signs; each is accepted, so that one can be exchanged for another without a moment of refusals."""

    keys: tuple[bytes, ...] = field(repr=False)


def secrets_of(settings: Settings) -> Secrets | None:
    """`None` without `internal_token`."""
    given = (settings.internal_token, settings.internal_token_also)
    keys = tuple(secret.get_secret_value().encode() for secret in given if secret and secret.get_secret_value())
    return Secrets(keys) if keys else None


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a worker, as both sides see it. `path` is as it is on the wire; `tenant_id` may be empty."""

    worker_id: str
    tenant_id: str
    method: str
    path: str
    body_sha256: str


def sha256_of(body: bytes | None) -> str:
    return hashlib.sha256(body or b"").hexdigest()


def sign(shared: Secrets, call: Call, now: float) -> str:
    """The value of `INTERNAL_HEADER`; `now` in Unix seconds."""
    issued, nonce = str(int(now)), secrets.token_hex(16)
    return ".".join((_VERSION, issued, nonce, call.body_sha256, _mac(shared.keys[0], *_signed(call, issued, nonce))))


class Checker:
    """What one worker accepts. Not thread-safe: it belongs to the event loop."""

    def __init__(self, shared: Secrets, worker_id: str) -> None:
        self._shared = shared
        self.worker_id = worker_id
        self._seen: set[str] = set()
        self._seen_before: set[str] = set()
        self._turned_at = 0.0

    def body_sha256(self, header: str, tenant_id: str, method: str, path: str, now: float) -> str | None:
        """The digest that the body has to have; `None` where the signature is not one for this request, now, here."""
        parts = header.split(".")
        if len(parts) != 5 or parts[0] != _VERSION or not (parts[1].isascii() and parts[1].isdecimal()):
            return None
        _, issued, nonce, body_sha256, mac = parts
        signed = _signed(Call(self.worker_id, tenant_id, method, path, body_sha256), issued, nonce)
        # All of them, whichever fits: how long it takes tells nothing.
        fitting = [_same(mac, _mac(key, *signed)) for key in self._shared.keys]
        if not any(fitting) or len(issued) > 12 or abs(now - int(issued)) > WINDOW_SECONDS:
            return None
        return None if self._replayed(nonce, now) else body_sha256

    def proof(self, url: str) -> str:
        """What this worker's announcement at `url` has to carry as `PROOF`."""
        return _mac(self._shared.keys[0], "announcement", self.worker_id, url)

    def _replayed(self, nonce: str, now: float) -> bool:
        """Remembers it for as long as its signature could be good."""
        if now - self._turned_at > 2 * WINDOW_SECONDS:
            self._seen_before, self._seen, self._turned_at = self._seen, set(), now
        if nonce in self._seen or nonce in self._seen_before:
            return True
        self._seen.add(nonce)
        return False


def proven(shared: Secrets, worker_id: str, url: str, info: Mapping[str, Any]) -> bool:
    """Whether the announcement is signed, and of an address that may be asked."""
    proof = info.get(PROOF)
    if not isinstance(proof, str) or not url.startswith(("http://", "https://")):
        return False
    return any([_same(proof, _mac(key, "announcement", worker_id, url)) for key in shared.keys])


def _signed(call: Call, issued: str, nonce: str) -> tuple[str, ...]:
    return ("request", call.worker_id, call.tenant_id, call.method, call.path, call.body_sha256, issued, nonce)


def _mac(key: bytes, *fields: str) -> str:
    # No field has a line break: addresses, ids, digests and numbers.
    return hmac.new(key, "\n".join(fields).encode(), hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
