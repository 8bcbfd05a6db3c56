from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from threading import Event

import httpx
import pytest

from core.truth.records import JobEvent
from gateway.inference_client import whole_events
from gateway.sse import DONE, event_bytes, events_of

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: 1\n\ndata: 2\n\n"],
        [b"data: 1\n", b"\ndata: 2\n\n"],
        [b"d", b"ata: 1\n\nda", b"ta: 2", b"\n\n"],
        [b"data: 1\r\n\r\ndata: 2\r\n\r\n"],
    ],
)
def test_events_are_passed_on_whole_however_they_come(chunks: list[bytes]) -> None:
    passed = _passed(chunks)
    assert b"".join(passed) == b"data: 1\n\ndata: 2\n\n"
    assert all(part.endswith(b"\n\n") for part in passed)


def test_a_last_event_without_its_empty_line_is_passed_on() -> None:
    assert b"".join(_passed([b"data: 1\n\ndata: 2"])) == b"data: 1\n\ndata: 2"


def test_a_stream_that_breaks_off_loses_its_half_event_and_ends_with_an_error() -> None:
    *before, last = _passed([b"data: 1\n\ndata: {"], broken=True)
    assert before == [b"data: 1\n\n"]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "unavailable"


def test_an_event_says_its_id_its_type_and_its_data_on_one_line_each() -> None:
    event = JobEvent(7, "job_a", AT, "info", "phase", "line\nbreak", {"phase": "training"})
    lines = event_bytes(event).decode().split("\n")
    assert lines[:2] == ["id: 7", "event: phase"]
    assert json.loads(lines[2].removeprefix("data: "))["message"] == "line\nbreak"
    assert lines[3:] == ["", ""]


def test_an_ended_job_is_told_to_its_last_event_before_done() -> None:
    log = [JobEvent(number, "job_a", AT, "info", "state", "", {}) for number in range(1, 6)]

    def news(after: int) -> tuple[Sequence[JobEvent], bool]:
        return [event for event in log if event.id > after][:2], True

    told = asyncio.run(_collect(events_of(news, 1, 0, Event())))
    assert told[-1] == DONE
    assert b"".join(told[1:-1]) == b"".join(map(event_bytes, log[1:]))


def test_a_process_that_stops_ends_the_stream() -> None:
    stopping = Event()
    stopping.set()
    assert asyncio.run(_collect(events_of(lambda _: ([], False), 0, 0, stopping)))[1:] == []


def _passed(chunks: list[bytes], *, broken: bool = False) -> list[bytes]:
    class Chunks(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk
            if broken:
                raise httpx.ReadError("gone")

    return asyncio.run(_collect(whole_events(httpx.Response(200, stream=Chunks()))))


async def _collect(parts: AsyncIterator[bytes]) -> list[bytes]:
    return [part async for part in parts]
