"""What one HTTP connection may take of a process: bytes of its head, fields, seconds, and a place among the others.

uvicorn bounds none of these (0.54, httptools): a head may grow without end, and one that never ends, or an answer that
nobody reads, holds its connection for ever.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, Literal

from core.settings import LimitSettings

Why = Literal["connections", "head", "slow", "stalled", "malformed"]

_LINGER_SECONDS = 1.0
"""What still comes is read for so long, so that the refusal is not lost with it."""
_BODY_MARGIN_SECONDS = 5.0
"""Who reads the body gives up at the limit and says so; where nobody reads it, the connection closes a little later."""


def bounded(protocol: type, limits: LimitSettings, refused: Callable[[Why], object]) -> type[asyncio.Protocol]:
    """uvicorn's protocol for httptools with these limits; `refused` hears of each connection that is turned away."""
    members = {"limits": limits, "refused": (refused,)}
    return type("BoundedConnection", (BoundedConnection, protocol), members)


class BoundedConnection(asyncio.Protocol):
    """Before uvicorn's own class in the order of classes; what it calls there is httptools' contract."""

    limits: ClassVar[LimitSettings]
    refused: ClassVar[tuple[Callable[[Why], object]]]

    # uvicorn's
    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any

    _arriving: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _in_head = True
    _begun = False
    """A first byte of the head has come."""
    _fed = 0
    """Bytes of the head as they came; an endless field shows here only."""
    _parsed = 0
    """Bytes of the head in whole fields; a head in one piece shows here only."""
    _fields = 0
    _turned_away = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse("connections", 503, "unavailable", "Too many connections are open here; try again.")
        else:
            self._expect(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        if self._in_head:
            self._fed += len(data)
            if self._arriving is None:
                self._expect(self.limits.head_seconds)
        super().data_received(data)
        if self._in_head and self._fed > self.limits.head_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        self._begin_head()
        self._begun = True
        self._expect(self.limits.head_seconds)
        super().on_message_begin()  # type: ignore[misc]

    def on_url(self, url: bytes) -> None:
        self._parsed += len(url)
        super().on_url(url)  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._parsed += len(name) + len(value)
        if not self._head_is_too_large():
            super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        if self._turned_away:
            return
        if self._head_is_too_large():
            self._refuse_head()
            return
        self._in_head = False
        self._expect(self.limits.body_seconds + _BODY_MARGIN_SECONDS)
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        if not self._turned_away:
            super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        if not self._turned_away:
            self._begin_head()
            self._stop_waiting()
            super().on_message_complete()  # type: ignore[misc]

    def pause_writing(self) -> None:
        super().pause_writing()
        loop = asyncio.get_running_loop()
        self._reading = loop.call_later(self.limits.stalled_seconds, self._give_up)

    def resume_writing(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP, in our shape."""
        self._refuse("malformed", 400, "invalid_request", "That is no HTTP request.")

    def _begin_head(self) -> None:
        self._in_head, self._begun, self._fed, self._parsed, self._fields = True, False, 0, 0, 0

    def _head_is_too_large(self) -> bool:
        return self._fields > self.limits.head_fields or self._parsed > self.limits.head_bytes

    def _expect(self, seconds: float) -> None:
        """The head, or the body, is to be here by then."""
        self._stop_waiting()
        self._arriving = asyncio.get_running_loop().call_later(seconds, self._late, seconds)

    def _stop_waiting(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _late(self, seconds: float) -> None:
        self._arriving = None
        if self._turned_away or self.transport.is_closing():
            return
        if self._answering():
            # A stream may be on its way to a client that has begun its next request; it has limits of its own.
            self._expect(seconds)
        elif self._in_head and self._begun:
            self._refuse("slow", 408, "request_timeout", "The request did not come in time.")
        else:
            self.transport.close()

    def _give_up(self) -> None:
        self._reading = None
        self.refused[0]("stalled")
        self.transport.abort()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse_head(self) -> None:
        fields, size = self.limits.head_fields, self.limits.head_bytes
        message = f"The request's head is larger than {size} bytes, or has more than {fields} header fields."
        self._refuse("head", 431, "head_too_large", message)

    def _refuse(self, why: Why, status: int, code: str, message: str) -> None:
        if self._turned_away or self.transport.is_closing():
            return
        self._turned_away = True
        self._stop_waiting()
        self.refused[0](why)
        if self._answering():
            self.transport.close()
            return
        self.transport.write(_answer(status, code, message))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.transport.close)


def _answer(status: int, code: str, message: str) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", "connection: close"] + (["retry-after: 5"] if status == 503 else [])
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
