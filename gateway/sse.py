"""A job's events as server-sent events: what has happened, then what happens, until the job has ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from threading import Event

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from core.errors import Overloaded
from core.truth.records import JobEvent
from gateway.views import event_object

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": still here\n\n"
KEEP_ALIVE_SECONDS = 15.0

News = Callable[[int], tuple[Sequence[JobEvent], bool]]
"""Events after an id, oldest first, and whether the job has ended and these are its last."""


def event_bytes(event: JobEvent) -> bytes:
    """One event; its id is what a reader sends back as `Last-Event-ID`."""
    return f"id: {event.id}\nevent: {event.type}\ndata: {event_object(event).model_dump_json()}\n\n".encode()


class EventStreams:
    """The streams that are open in this process. Belongs to the event loop."""

    def __init__(self, most: int, seconds: float, poll_seconds: float, stopping: Event) -> None:
        self._most = most
        self._seconds = seconds
        self._poll_seconds = poll_seconds
        self._stopping = stopping
        self._open = 0

    def stream(self, news: News, after: int) -> StreamingResponse:
        """Polls `news` in a thread. Raises `Overloaded` where too many are open.

        After its time, and when the process stops, a stream ends without `[DONE]`: the reader comes again.
        """
        if self._open >= self._most:
            raise Overloaded("Too many event streams are open here; try again.", retry_after_seconds=5)
        events = events_of(news, after, self._poll_seconds, self._stopping, time.monotonic() + self._seconds)
        return _Counted(events, self._count)

    def _count(self, change: int) -> None:
        self._open += change


class _Counted(StreamingResponse):
    def __init__(self, events: AsyncIterator[bytes], count: Callable[[int], None]) -> None:
        super().__init__(events, 200, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, MEDIA_TYPE)
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._count(1)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._count(-1)


async def events_of(
    news: News, after: int, poll_seconds: float, stopping: Event, until: float = math.inf
) -> AsyncIterator[bytes]:
    """The bytes of the stream, from the event after `after` on; `until` by the monotonic clock."""
    yield b"retry: 2000\n\n"
    spoken_at = time.monotonic()
    while not stopping.is_set() and time.monotonic() < until:
        events, ended = await run_in_threadpool(news, after)
        if events:
            after = events[-1].id
            spoken_at = time.monotonic()
            yield b"".join(map(event_bytes, events))
        elif ended:
            yield DONE
            return
        else:
            if time.monotonic() - spoken_at >= KEEP_ALIVE_SECONDS:
                spoken_at = time.monotonic()
                yield KEEP_ALIVE
            await asyncio.sleep(poll_seconds)
