"""The worker's HTTP server, which takes leave of the gateways before it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FrameType

import uvicorn

from core.logs import get_logger

_log = get_logger(__name__)


class LeavingServer(uvicorn.Server):
    """At the first signal it calls `leave` in a thread, and goes on answering for `drain_seconds`.

    By then no gateway sends anything any more. It then stops listening, waits for the answers under way, and ends; at
    a second signal at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        leave: Callable[[], None],
        drain_seconds: float,
    ) -> None:
        super().__init__(config)
        self._leave = leave
        self._drain_seconds = drain_seconds
        self._told = False
        self._leaving: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._told or not self.started:
            super().handle_exit(sig, frame)
        self._told = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._told and self._leaving is None:
            self._leaving = asyncio.create_task(self._take_leave())
        return await super().on_tick(counter)

    async def _take_leave(self) -> None:
        _log.info("the worker takes leave of the gateways", drain_seconds=self._drain_seconds)
        try:
            await asyncio.to_thread(self._leave)
            await asyncio.sleep(self._drain_seconds)
        finally:
            self.should_exit = True
