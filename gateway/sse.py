"""A job's events as server-sent events: what has happened, then what happens, until the job has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from threading import Event

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

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


def event_stream(news: News, after: int, poll_seconds: float, stopping: Event) -> StreamingResponse:
    """Polls `news` in a thread. When the process stops the stream ends without `[DONE]`: the reader comes again."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events_of(news, after, poll_seconds, stopping), 200, headers, MEDIA_TYPE)


async def events_of(news: News, after: int, poll_seconds: float, stopping: Event) -> AsyncIterator[bytes]:
    """The bytes of the stream, from the event after `after` on."""
    yield b"retry: 2000\n\n"
    spoken_at = time.monotonic()
    while not stopping.is_set():
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
