"""One request between the event loop, where its client waits, and the engine's thread, where it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from core.errors import LatentBankError, Unavailable
from workers.inference.question import Delta, Event, Finished, Started
from workers.inference.scheduler import Engine, Outcome, Ticket, Work

T = TypeVar("T")


class Exchange:
    """Made on the event loop; `submit` once, read to the end or `cancel`."""

    def __init__(self, engine: Engine, tenant_id: str, request_id: str) -> None:
        self._engine = engine
        self._tenant_id = tenant_id
        self._request_id = request_id
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Outcome] = asyncio.Queue()
        self._ticket: Ticket | None = None

    def submit(self, work: Work, adapters: Collection[str] = ()) -> None:
        """`adapters` are the digests that `work` needs in slots to begin."""
        self._ticket = self._engine.submit(self._tenant_id, work, self._deliver, self._request_id, adapters)

    def cancel(self) -> None:
        """Nobody waits any more; nothing happens where the answer is complete."""
        if self._ticket is not None:
            self._ticket.cancel()

    async def events(self) -> AsyncIterator[Event]:
        """What the engine delivers, to the end; raises what it raised."""
        while (outcome := await self._arrived.get()) is not None:
            if isinstance(outcome, LatentBankError):
                raise outcome
            yield outcome

    async def start(self, request: Request) -> Started:
        """Waits for the gate's decision. Raises `Unavailable` where the client goes away first."""
        outcome = await unless_gone(request, self._arrived.get())
        if isinstance(outcome, LatentBankError):
            raise outcome
        if not isinstance(outcome, Started):
            raise Unavailable("The request ended before it began.")
        return outcome

    async def rest(self, request: Request) -> tuple[str, Finished]:
        """The whole text. Raises `Unavailable` where the client goes away first."""
        return await unless_gone(request, self._collect())

    async def _collect(self) -> tuple[str, Finished]:
        texts: list[str] = []
        async for event in self.events():
            if isinstance(event, Delta):
                texts.append(event.text)
            elif isinstance(event, Finished):
                return "".join(texts), event
        raise Unavailable("The answer broke off.")

    def _deliver(self, outcome: Outcome) -> None:
        # On the engine's thread; when a server shuts down the loop may be gone.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, outcome)


async def unless_gone(request: Request, waited: Coroutine[Any, Any, T]) -> T:
    """The result of `waited`; cancels it and raises `Unavailable` where the client goes away first."""
    task = asyncio.ensure_future(waited)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Unavailable("The client went away.")
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
