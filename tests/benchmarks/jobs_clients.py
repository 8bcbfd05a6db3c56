"""Clients of the queue's benchmark: contexts over HTTP, one by one and in bulk, with kept connections."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_TEXT = "the ferry leaves the north pier at seven and returns before dusk when the harbour lamps are lit"
_WORDS = _TEXT.split()
CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant and its key."""

    tenant_id: str
    key: str


def new_customers(url: str, admin_key: str, count: int) -> list[Customer]:
    with_admin = [(admin_key, "/v1/tenants", {"name": f"tenant {number}"}) for number in range(count)]
    return [Customer(answer["id"], answer["api_key"]) for answer in _send_all(url, with_admin, clients=1)[0]]


def submit_one_by_one(url: str, customers: Sequence[Customer], each: int, label: str) -> float:
    """Memories a second, over all customers."""
    requests = [(who.key, "/v1/memories", _context(label, number)) for number in range(each) for who in customers]
    _, seconds = _send_all(url, requests)
    return len(requests) / seconds


def submit_in_bulk(url: str, customers: Sequence[Customer], each: int, label: str) -> float:
    """Memories a second, a request for each customer."""
    memories = [_context(label, number) for number in range(each)]
    answers, seconds = _send_all(url, [(who.key, "/v1/memories/batch", {"memories": memories}) for who in customers])
    taken = sum(answer["accepted"] for answer in answers)
    if taken != each * len(customers):
        raise RuntimeError(f"Only {taken} memories of {each * len(customers)} were taken.")
    return taken / seconds


def _context(label: str, number: int) -> dict[str, Any]:
    """About a hundred words."""
    words = [_WORDS[(number + place) % len(_WORDS)] for place in range(100)]
    return {"title": f"{label} {number}", "text": f"Note {label} {number}. {' '.join(words)}."}


def _send_all(
    url: str, requests: Sequence[tuple[str, str, Any]], clients: int = CLIENTS
) -> tuple[list[dict[str, Any]], float]:
    """Answers in order, and seconds from the first request to the last answer; bodies are made before."""
    made = [(path, json.dumps(body), {"Authorization": f"Bearer {key}"}) for key, path, body in requests]
    answers: list[dict[str, Any]] = [{} for _ in made]
    problems: list[BaseException] = []
    address = urlsplit(url).netloc

    def work(first: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        try:
            for place in range(first, len(made), clients):
                path, body, headers = made[place]
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                told = json.loads(answer.read())
                if answer.status >= http.client.BAD_REQUEST:
                    raise RuntimeError(f"{path} answered {answer.status}: {told}")
                answers[place] = told
        except BaseException as problem:  # noqa: BLE001 - raised by whoever joins the thread
            problems.append(problem)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if problems:
        raise problems[0]
    return answers, seconds
