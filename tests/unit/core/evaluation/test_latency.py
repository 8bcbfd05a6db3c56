from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from core.errors import Unavailable
from core.evaluation.latency import Endpoint, content_of, measure, sample
from tests.unit.core.evaluation.examples import question


class Gateway(ThreadingHTTPServer):
    """Answers every question with two chunks; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.status = 200


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()
        for content in ("", "grey ", "slate"):
            chunk = {"choices": [{"delta": {"content": content}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def endpoint(server: Gateway) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_port}", "lb_key", "base", {"ids": ["mem_a"]})


def test_each_question_is_asked_routed_then_with_the_text_then_with_it_again(gateway: Gateway) -> None:
    done: list[int] = []
    (served,) = measure(endpoint(gateway), [question("q")], lambda _: "The text.", 32, done.append)
    assert served.answer == "grey slate"
    assert 0 < served.routed_ttft_ms < 5000
    assert served.rag_ttft_ms > 0
    assert done == [1]
    routed, rag, again = gateway.asked[2:]
    assert routed["memory"] == {"mode": "auto", "ids": ["mem_a"]}
    assert routed["messages"][0]["content"] == "What is q?"
    assert rag["memory"] == {"mode": "off"}
    assert rag["messages"][0]["content"].startswith("The text.")
    assert again == rag
    assert all(body["stream"] and body["temperature"] == 0 for body in gateway.asked)


def test_a_gateway_that_refuses_is_an_error_of_ours(gateway: Gateway) -> None:
    gateway.status = 503
    with pytest.raises(Unavailable, match="503"):
        measure(endpoint(gateway), [question("q")], lambda _: "", 32, lambda _: None)


def test_an_error_within_the_stream_is_raised() -> None:
    with pytest.raises(Unavailable, match="gone"):
        content_of('data: {"error": {"message": "gone"}}')


@pytest.mark.parametrize("line", ["", ": ping", "data: [DONE]", 'data: {"choices": []}', 'data: {"choices": [{}]}'])
def test_a_line_without_words_adds_none(line: str) -> None:
    assert content_of(line) == ""


def test_the_sample_is_spread_over_the_documents() -> None:
    questions = [question(f"{d}{i}", documents=(d,)) for d in "abcd" for i in range(5)]
    everyday = question("g", "general")
    drawn = sample([*questions, everyday], seed=3, count=6)
    assert len({q.documents[0] for q in drawn[:4]}) == 4
    assert len(drawn) == 6
    assert drawn == sample([*questions, everyday], seed=3, count=6)
    assert everyday not in sample([*questions, everyday], seed=3, count=100)
