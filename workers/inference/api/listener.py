"""A second HTTP server in the same process and on the same event loop, for as long as a block runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI

from core.errors import SetupError

GRACE_SECONDS = 5
"""How long requests may take to end when the block does."""


class _Beside(uvicorn.Server):
    """Leaves the signals to the server beside which it runs."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises `SetupError` where it can't."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as problem:
        raise SetupError(f"Nothing can listen on {host}:{port}: {problem.strerror}.") from problem


@asynccontextmanager
async def listening(app: FastAPI, listener: socket.socket, connections: type[asyncio.Protocol]) -> AsyncIterator[None]:
    """`app` answers on `listener`, which is closed at the end, over connections of that class."""
    config = uvicorn.Config(
        app,
        http=connections,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Beside(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        listener.close()
