"""Milliseconds to the first word, measured from outside: streaming requests over HTTP, as a client sends them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from core.base_model.chat import about
from core.errors import Unavailable
from core.evaluation.records import Served
from core.evaluation.suite import Question

SAMPLES = 8
FIRST_TOKENS = 4
"""As many as surely hold a first word; of answers with the text nothing else is of interest."""

Json = dict[str, Any]
Retrieve = Callable[[str], str]
"""The text that retrieval finds for a question; its time counts."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running gateway, a tenant's key, the base model's name; `scope` goes into every routed request's `memory`."""

    url: str
    key: str
    model: str
    scope: Mapping[str, Any]


def sample(questions: Sequence[Question], seed: int, count: int = SAMPLES) -> list[Question]:
    """Up to `count` questions that one document answers, by the seed, of as many documents as possible."""
    shuffled = [question for question in questions if question.role == "document"]
    random.Random(seed).shuffle(shuffled)  # nosec B311
    turns: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for at, question in enumerate(shuffled):
        turn = turns.get(question.documents[0], 0)
        turns[question.documents[0]] = turn + 1
        order.append((turn, at))
    return [shuffled[at] for _, at in sorted(order)[:count]]


def measure(
    endpoint: Endpoint, questions: Sequence[Question], retrieve: Retrieve, max_tokens: int, told: Callable[[int], None]
) -> list[Served]:
    """Asks each question routed, then with the text, then with the text again. Raises `Unavailable`.

    One question of each kind goes before and is not counted: the worker then has its bank.
    """
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    routed: Json = {"mode": "auto", **endpoint.scope}
    off: Json = {"mode": "off"}
    with httpx.Client(base_url=endpoint.url, headers=headers, timeout=300.0, trust_env=False) as http:
        for memory in (routed, off):
            _stream(http, endpoint.model, "How are you today?", memory, 2)
        served = []
        for question in questions:
            answer, routed_ms = _stream(http, endpoint.model, question.text, routed, max_tokens)
            started = time.perf_counter()
            text = retrieve(question.text)
            retrieval_ms = 1000 * (time.perf_counter() - started)
            message = about(text, question.text)
            _, rag_ms = _stream(http, endpoint.model, message, off, FIRST_TOKENS)
            _, cached_ms = _stream(http, endpoint.model, message, off, FIRST_TOKENS)
            served.append(Served(question.id, answer, routed_ms, retrieval_ms + rag_ms, retrieval_ms + cached_ms))
            told(len(served))
    return served


def _stream(http: httpx.Client, model: str, message: str, memory: Json, max_tokens: int) -> tuple[str, float]:
    """The answer and the milliseconds from sending to its first word, or to its end where it has none."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": message}],
        "memory": memory,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    text, first = "", None
    started = time.perf_counter()
    try:
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.is_error:
                raise Unavailable(f"The gateway answered {answer.status_code}: {answer.read().decode()[:300]}")
            for line in answer.iter_lines():
                text += content_of(line)
                if text and first is None:
                    first = time.perf_counter()
    except httpx.HTTPError as broken:
        raise Unavailable(f"The gateway broke off: {broken or type(broken).__name__}") from broken
    return text, 1000 * ((first or time.perf_counter()) - started)


def content_of(line: str) -> str:
    """The words that a line of server-sent events adds to the answer. Raises `Unavailable` where it is an error."""
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return ""
    fields = json.loads(data)
    if "error" in fields:
        raise Unavailable(f"The answer broke off: {fields['error'].get('message')}")
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in fields.get("choices") or ())
