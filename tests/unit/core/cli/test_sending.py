from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from core.cli import sending
from core.cli.client import Api, ApiError, GatewayAway
from core.cli.sending import ATTEMPTS, Outcome, send_all
from core.cli.sources import Item, Unfit
from core.errors import EmptyContext

Answer = Callable[[list[dict[str, Any]]], httpx.Response]


def taken(memories: list[dict[str, Any]]) -> httpx.Response:
    return answered([("accepted", memory["title"]) for memory in memories])


def answered(told: list[tuple[str, str]]) -> httpx.Response:
    """Each a status and the memory's id, or `refused` and the error's code."""
    data = [
        {"status": status, "memory": None, "error": {"code": word, "message": f"{word}."}}
        if status == "refused"
        else {"status": status, "memory": {"id": word}, "error": None}
        for status, word in told
    ]
    return httpx.Response(200, json={"data": data})


def error(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": f"{code}.", "code": code}}, headers=headers)


class Gateway:
    """Answers one request after the other, the last way for all that follow; `sent` are the titles of each."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.sent: list[list[str]] = []
        self.keys: list[list[str]] = []
        self.pauses: list[float] = []

    def send(self, *found: Item | Unfit, most: int = 1000) -> list[Outcome]:
        with Api("http://gateway", "key", transport=httpx.MockTransport(self._answer)) as api:
            return [one for part in send_all(api, found, most, sleep=self.pauses.append) for one in part]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        memories = json.loads(request.content)["memories"]
        self.sent.append([memory["title"] for memory in memories])
        self.keys.append([memory["idempotency_key"] for memory in memories])
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer(memories)


def item(title: str, size: int = 0) -> Item:
    fields = {"title": title, "text": "x" * size, "idempotency_key": f"key-{title}"}
    return Item(f"{title}.txt", json.dumps(fields).encode())


def test_requests_are_bounded_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(taken)
    assert len(gateway.send(*map(item, "abcde"), most=2)) == 5
    assert gateway.sent == [["a", "b"], ["c", "d"], ["e"]]
    monkeypatch.setattr(sending, "MOST_BYTES", 1000)
    gateway = Gateway(taken)
    gateway.send(item("a", 700), item("b", 300), item("c", 300), item("d", 5000), item("e"))
    assert gateway.sent == [["a"], ["b", "c"], ["d"], ["e"]]


def test_every_context_has_its_outcome_with_its_place_in_their_order() -> None:
    gateway = Gateway(lambda _: answered([("accepted", "mem_a"), ("replayed", "mem_b"), ("refused", "empty")]))
    unfit = Unfit("u.png", EmptyContext("Nothing."))
    told = gateway.send(item("a"), unfit, item("b"), item("c"))
    assert told == [
        Outcome("a.txt", {"id": "mem_a"}, created=True),
        Outcome("u.png", code="empty_context", message="Nothing."),
        Outcome("b.txt", {"id": "mem_b"}),
        Outcome("c.txt", code="empty", message="empty."),
    ]
    assert [one.refused for one in told] == [False, True, False, True]
    gateway = Gateway(taken)
    assert gateway.send(unfit) == [told[1]]
    assert gateway.sent == []


@pytest.mark.parametrize("status", [400, 413])
def test_one_context_that_spoils_the_body_is_refused_alone(status: int) -> None:
    def answer(memories: list[dict[str, Any]]) -> httpx.Response:
        spoilt = any(memory["title"] == "c" for memory in memories)
        return error(status, "spoilt") if spoilt else taken(memories)

    told = Gateway(answer).send(*map(item, "abcde"))
    assert [one.memory and one.memory["id"] for one in told] == ["a", "b", None, "d", "e"]
    assert (told[2].place, told[2].code, told[2].message) == ("c.txt", "spoilt", "spoilt.")


def test_what_does_not_come_back_is_sent_again_with_the_same_keys() -> None:
    def lost(_: list[dict[str, Any]]) -> httpx.Response:
        raise httpx.ReadError("cut off")

    gateway = Gateway(lost, lambda _: error(503, "unavailable"), taken)
    told = gateway.send(item("a"), item("b"))
    assert not any(one.refused for one in told)
    assert gateway.keys == [["key-a", "key-b"]] * 3
    assert gateway.pauses == [1.0, 2.0]
    gateway = Gateway(lost)
    with pytest.raises(GatewayAway):
        gateway.send(item("a"))
    assert len(gateway.sent) == ATTEMPTS


def test_a_tenant_that_sends_too_much_waits_as_long_as_it_is_told() -> None:
    gateway = Gateway(lambda _: error(429, "rate_limited", **{"Retry-After": "17"}), taken)
    assert not any(one.refused for one in gateway.send(item("a")))
    assert gateway.pauses == [17]


def test_a_key_that_may_not_is_told_so_at_once() -> None:
    gateway = Gateway(lambda _: error(403, "forbidden"))
    with pytest.raises(ApiError, match="forbidden"):
        gateway.send(item("a"), item("b"))
    assert len(gateway.sent) == 1


def test_once_a_whole_request_finds_no_room_nothing_more_is_sent() -> None:
    def full(memories: list[dict[str, Any]]) -> httpx.Response:
        return answered([("refused", "backlog_full")] * len(memories))

    half = answered([("accepted", "mem_a"), ("refused", "quota_exceeded")])
    gateway = Gateway(lambda _: half, full)
    told = gateway.send(*map(item, "abcdefg"), most=2)
    assert gateway.sent == [["a", "b"], ["c", "d"]]
    codes = ["", "quota_exceeded", "backlog_full", "backlog_full", "not_sent", "not_sent", "not_sent"]
    assert [one.code for one in told] == codes
