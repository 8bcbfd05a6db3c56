"""A TCP proxy between a process and a server, that fails on order.

One `Network` runs all links of a test in one thread. A link passes bytes on until it is told otherwise: `cut` ends
every connection and refuses new ones, `swallow` accepts and never answers (a half-open connection), `delay` holds every
chunk back, and `drop_reply` lets one request through whose answer then never comes, before the connection breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from threading import Thread
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

_CHUNK_BYTES = 1 << 16
_STEP_SECONDS = 0.02
_ANSWER_SECONDS = 0.3
"""How long a request whose reply is dropped has to take effect before the connection breaks."""

Mode = Literal["pass", "cut", "swallow"]
T = TypeVar("T")


@dataclass(slots=True)
class _Drop:
    """The next connection that sends `marker`, and then `trigger`, gets no answer to the latter."""

    marker: bytes
    trigger: bytes


@dataclass(eq=False, slots=True)
class Link:
    """One address that leads to one server. Its methods may be called from any thread."""

    network: Network
    target: tuple[str, int]
    port: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    _mode: Mode = "pass"
    _delay: float = 0.0
    _drops: list[_Drop] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Ends all connections; new ones break at once until `heal`."""
        self.injected["cut"] += 1
        self._mode = "cut"
        self.network.do(self._break())

    def swallow(self) -> None:
        """From now on nothing is answered any more, on old connections and new ones."""
        self.injected["half-open"] += 1
        self._mode = "swallow"

    def delay(self, seconds: float) -> None:
        """Holds back every chunk, in either direction."""
        self.injected["delay"] += 1
        self._delay = seconds

    def drop_reply(self, trigger: bytes, marker: bytes = b"") -> None:
        """Once: the request that contains `trigger`, on a connection that sent `marker` before, gets no answer."""
        self._drops.append(_Drop(marker, trigger))

    def heal(self) -> None:
        """All is well for new connections; what was swallowed meanwhile stays lost, and its connection breaks."""
        was, self._mode, self._delay = self._mode, "pass", 0.0
        self._drops.clear()
        if was == "swallow":
            self.network.do(self._break())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "cut":
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server_writer}
        self._writers |= both
        speech = _Speech()
        forth = asyncio.create_task(self._forward(reader, server_writer, speech, asked=True))
        back = asyncio.create_task(self._forward(server_reader, writer, speech, asked=False))
        await asyncio.wait({forth, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (forth, back):
            task.cancel()
        await asyncio.gather(forth, back, return_exceptions=True)
        self._writers -= both
        for one in both:
            one.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, speech: _Speech, *, asked: bool
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self._delay:
                await asyncio.sleep(self._delay)
            while self._mode == "swallow":
                await asyncio.sleep(_STEP_SECONDS)
            if asked and self._dropped(data, speech):
                self.injected["reply dropped"] += 1
                speech.deaf = True
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(_ANSWER_SECONDS)
                return
            if asked or not speech.deaf:
                writer.write(data)
                await writer.drain()

    def _dropped(self, data: bytes, speech: _Speech) -> bool:
        for drop in self._drops:
            if drop.marker and drop.marker in data:
                speech.marked.add(id(drop))
            if drop.trigger in data and (not drop.marker or id(drop) in speech.marked):
                self._drops.remove(drop)
                return True
        return False

    async def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@dataclass(slots=True)
class _Speech:
    """What one connection has said; `deaf`: its answers are thrown away."""

    marked: set[int] = field(default_factory=set)
    deaf: bool = False


class Network:
    """All links, in one thread with an event loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="faulty-network", daemon=True)
        self.links: dict[str, Link] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def link(self, name: str, host: str, port: int) -> Link:
        """A new address that leads to `host:port`."""
        link = Link(self, (host, port))
        server = self.do(asyncio.start_server(link.serve, "127.0.0.1", 0))
        link.port = server.sockets[0].getsockname()[1]
        self.links[name] = link
        return link

    def heal(self) -> None:
        for link in self.links.values():
            link.heal()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _end(self) -> None:
        for link in self.links.values():
            await link._break()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*others, return_exceptions=True)
