"""Many contexts to the gateway: in requests of bounded size, each context with an outcome of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from core.cli.client import Api, ApiError, GatewayAway, Json
from core.cli.sources import MOST_BYTES, Item, Unfit

ATTEMPTS = 5
NO_ROOM = frozenset({"backlog_full", "quota_exceeded", "not_sent"})
"""Of what may be sent again as it is, later."""

_OF_THE_BODY = frozenset({400, 413})
_NOT_SENT = "It was not sent, since those before it found no room."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the context read at `place`: a memory, or the code and the message of an error."""

    place: str
    memory: Json | None = None
    created: bool = False
    code: str = ""
    message: str = ""

    @property
    def refused(self) -> bool:
        return self.memory is None


def send_all(
    api: Api, found: Iterable[Item | Unfit], most: int, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[list[Outcome]]:
    """Sends what was found, up to `most` and `MOST_BYTES` a request; the outcomes, none left out, as they are told.

    Once a whole request found no room, nothing more is sent. What does not come back, and what is too much for this
    minute, is sent again with the same keys, `ATTEMPTS` times in all; then raises as the last attempt did.
    """
    full = False
    for part in _parts(found, most):
        items = [one for one in part if isinstance(one, Item)]
        if full:
            told = [Outcome(one.place, code="not_sent", message=_NOT_SENT) for one in items]
        else:
            told = _sent(api, items, sleep) if items else []
            full = bool(told) and all(one.code in NO_ROOM for one in told)
        of_items = iter(told)
        yield [
            next(of_items)
            if isinstance(one, Item)
            else Outcome(one.place, code=one.problem.code, message=one.problem.message)
            for one in part
        ]


def _parts(found: Iterable[Item | Unfit], most: int) -> Iterator[list[Item | Unfit]]:
    """Never an empty one; an item that is larger than all of a part may be goes alone."""
    part: list[Item | Unfit] = []
    size = 0
    for one in found:
        length = len(one.body) if isinstance(one, Item) else 0
        if len(part) >= most or (size and size + length > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += length
    if part:
        yield part


def _sent(api: Api, items: Sequence[Item], sleep: Callable[[float], None]) -> list[Outcome]:
    try:
        answer = _asked_again(lambda: api.remember_many([item.body for item in items]), sleep)
    except ApiError as refused:
        if refused.answered_status not in _OF_THE_BODY:
            raise
        if len(items) == 1:
            return [Outcome(items[0].place, code=refused.answered_code, message=refused.message)]
        # The body as a whole is refused, for one of its contexts or for its size.
        half = len(items) // 2
        return _sent(api, items[:half], sleep) + _sent(api, items[half:], sleep)
    return [_outcome(item.place, told) for item, told in zip(items, answer["data"], strict=True)]


def _outcome(place: str, told: Json) -> Outcome:
    if told["memory"] is None:
        return Outcome(place, code=told["error"]["code"], message=told["error"]["message"])
    return Outcome(place, told["memory"], told["status"] == "accepted")


def _asked_again(ask: Callable[[], Json], sleep: Callable[[float], None]) -> Json:
    for attempt in range(ATTEMPTS - 1):
        pause = float(2**attempt)
        try:
            return ask()
        except GatewayAway:
            pass
        except ApiError as refused:
            if refused.answered_status != 429 and refused.answered_status < 500:
                raise
            pause = refused.retry_after_seconds or pause
        sleep(pause)
    return ask()
