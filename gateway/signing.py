"""The gateway's side of the internal token: a header for each request to a worker; and by what TLS knows workers."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from core.errors import SetupError
from core.internal import Call, Secrets, sha256_of, sign

Sign = Callable[[str, str, str, str, bytes | None], str]
"""The header's value for worker id, tenant id, method, path and body."""


def signing(shared: Secrets | None) -> Sign:
    """Without a token nothing is signed, and no worker takes it."""

    def header(worker_id: str, tenant_id: str, method: str, path: str, body: bytes | None) -> str:
        if shared is None:
            return ""
        on_the_wire = httpx.URL(path).raw_path.decode()
        return sign(shared, Call(worker_id, tenant_id, method, on_the_wire, sha256_of(body)), time.time())

    return header


def workers_tls(certificates: Path | None) -> ssl.SSLContext:
    """By which inference workers are known; raises `SetupError`."""
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as problem:
        raise SetupError(f"LATENTBANK_GATEWAY__WORKER_CA can't be read: {problem}.") from problem
