"""What a real worker takes of whoever reaches its port; over sockets: HTTP clients are too well-behaved."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from core.internal import INTERNAL_HEADER
from core.settings import LimitSettings
from tests.fixtures.internal import signed
from tests.integration.inference.conftest import TOKEN, RunningWorker

CHAT = "/v1/chat/completions"
LIMITS = LimitSettings()
TOO_LARGE = LIMITS.body_bytes + 1


def said(worker: RunningWorker, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to these bytes; nothing more is sent, so that who waits for it waits for ever."""
    port = httpx.URL(worker.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        heard = b""
        while b"\r\n\r\n" not in heard or not heard.endswith(b"}"):
            chunk = connection.recv(65536)
            assert chunk, heard
            heard += chunk
    top, _, body = heard.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)


def head(method: str, path: str, **fields: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def test_a_signature_is_checked_before_anything_of_the_body_has_come(worker: RunningWorker) -> None:
    tenant = worker.publisher.tenant()
    forged = signed("a guess", tenant, "POST", CHAT, b"{}", worker.id)
    for headers in ({}, forged):
        for length in (2, TOO_LARGE):
            status, answer = said(worker, head("POST", CHAT, Content_Length=str(length), **headers))
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key"), answer


def test_a_body_that_is_announced_too_large_is_not_waited_for(worker: RunningWorker) -> None:
    headers = signed(TOKEN, worker.publisher.tenant(), "POST", CHAT, b"{}", worker.id)
    status, answer = said(worker, head("POST", CHAT, Content_Length=str(TOO_LARGE), **headers))
    assert status == 413
    assert str(LIMITS.body_bytes) in answer["error"]["message"]


def test_a_body_that_grows_too_large_is_refused(worker: RunningWorker) -> None:
    headers = signed(TOKEN, worker.publisher.tenant(), "POST", CHAT, b"{}", worker.id)
    piece = b" " * 65536
    pieces = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n"] * (TOO_LARGE // len(piece) + 1)
    status, _ = said(worker, head("POST", CHAT, Transfer_Encoding="chunked", **headers), *pieces)
    assert status == 413


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": ' + b"[" * (LIMITS.json_depth + 1),
        b'{"model": [' + b"0," * (LIMITS.json_items + 1),
        b"\xff",
        b"{",
        b"[]",
    ],
    ids=["too deep", "too many items", "no text", "no JSON", "no object"],
)
def test_a_signed_body_that_is_too_much_or_none_is_a_400(worker: RunningWorker, body: bytes) -> None:
    with worker.http(worker.publisher.tenant()) as http:
        answer = http.post(CHAT, content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text


def test_another_body_than_the_signed_one_is_refused(worker: RunningWorker) -> None:
    tenant = worker.publisher.tenant()
    sent = json.dumps({"model": "x", "messages": [{"role": "user", "content": "Ours"}]}).encode()
    headers = signed(TOKEN, tenant, "POST", CHAT, sent.replace(b"Ours", b"Else"), worker.id)
    assert httpx.post(worker.url + CHAT, content=sent, headers=headers, timeout=20).status_code == 401
    headers = signed(TOKEN, tenant, "POST", CHAT, sent, worker.id)
    assert httpx.post(worker.url + CHAT, content=sent, headers=headers, timeout=20).status_code == 404
    assert httpx.post(worker.url + CHAT, content=sent, headers=headers, timeout=20).status_code == 401, "it served once"


def test_a_head_that_is_too_large_or_no_http_is_refused_and_counted(worker: RunningWorker) -> None:
    refused = {why: worker.metric("latentbank_inference_refused_total", reason=why) for why in ("head", "malformed")}
    assert said(worker, head("GET", "/health", X_Long="a" * (LIMITS.head_bytes + 1)))[0] == 431
    assert said(worker, head("GET", "/health", **{f"X_{n}": "a" for n in range(LIMITS.head_fields + 1)}))[0] == 431
    assert said(worker, head("GET", "/health", **{INTERNAL_HEADER: "." * (LIMITS.head_bytes + 1)}))[0] == 431
    assert said(worker, b"\x16\x03\x01 no HTTP\r\n\r\n")[0] == 400
    now = {why: worker.metric("latentbank_inference_refused_total", reason=why) for why in refused}
    assert now == {"head": refused["head"] + 3, "malformed": refused["malformed"] + 1}
