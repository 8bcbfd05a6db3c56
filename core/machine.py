"""What this machine lets a process do: write to a directory, listen on a port. Each says why it does not."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def writable(directory: Path) -> str | None:
    """Why nothing can be written there; None where it can."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as problem:
        return problem.strerror or str(problem)
    return None


def taken(host: str, port: int) -> str | None:
    """Why nothing can listen there; None where it can, or where the port is 0, any that is free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as problem:
        return problem.strerror or str(problem)
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as problem:
            return problem.strerror or str(problem)
    return None
