"""The S3 client against a server that misbehaves on purpose, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from pydantic import SecretStr

from core.errors import SetupError, StorageError
from core.settings import StorageSettings
from core.storage.s3 import S3Store
from tests.fixtures.s3 import S3Server

BODY = b"the whole body of the object" * 100
PLAIN_HEADERS = {"x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm", "x-amz-trailer"}


class _Scripted(BaseHTTPRequestHandler):
    """Takes one behaviour per request; `hang` stores or reads as asked, but never answers."""

    protocol_version = "HTTP/1.1"
    script: ClassVar[list[str]] = []
    stored: ClassVar[dict[str, bytes]] = {}
    seen_headers: ClassVar[set[str]] = set()

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen_headers.update(name.lower() for name in self.headers)
        behaviour = self._next()
        if behaviour != "503":
            self.stored[self.path] = data
        self._answer(behaviour, b"")

    def do_GET(self) -> None:
        self._answer(self._next(), self.stored.get(self.path, BODY))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _next(self) -> str:
        return self.script.pop(0) if self.script else "ok"

    def _answer(self, behaviour: str, body: bytes) -> None:
        if behaviour == "hang":
            self.close_connection = True
            return
        self.send_response(503 if behaviour == "503" else 200)
        self.send_header("Content-Length", "0" if behaviour == "503" else str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if behaviour == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif behaviour == "ok":
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[type[_Scripted]]:
    handler = type("Handler", (_Scripted,), {"script": [], "stored": {}, "seen_headers": set()})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.endpoint = f"http://127.0.0.1:{http.server_port}"  # type: ignore[attr-defined]
    yield handler
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def store(server: type[_Scripted]) -> S3Store:
    settings = StorageSettings(
        endpoint=server.endpoint,  # type: ignore[attr-defined]
        access_key=SecretStr("access"),
        secret_key=SecretStr("secret"),
        max_attempts=3,
        timeout_seconds=2.0,
    )
    return S3Store("bucket", "prefix", settings)


def test_a_busy_store_is_asked_again(server: type[_Scripted], store: S3Store) -> None:
    server.script += ["503", "503", "ok"]
    store.put("a", b"data")
    assert server.stored == {"/bucket/prefix/a": b"data"}


def test_a_store_that_stays_busy_is_a_storage_error(server: type[_Scripted], store: S3Store) -> None:
    server.script += ["503"] * 3
    with pytest.raises(StorageError) as caught:
        store.get("a")
    assert type(caught.value) is StorageError
    assert server.script == []


def test_a_body_that_breaks_off_is_read_again(server: type[_Scripted], store: S3Store, tmp_path: Path) -> None:
    server.script += ["cut", "ok"]
    assert store.get("a") == BODY
    server.script += ["cut", "cut", "ok"]
    store.download("a", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_body_that_always_breaks_off_leaves_no_file(server: type[_Scripted], store: S3Store, tmp_path: Path) -> None:
    server.script += ["cut"] * 3
    with pytest.raises(StorageError):
        store.download("a", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_put_whose_answer_was_lost_is_repeated_with_the_same_bytes(server: type[_Scripted], store: S3Store) -> None:
    server.script += ["hang", "ok"]
    store.put("a", b"data")
    assert server.stored == {"/bucket/prefix/a": b"data"}


def test_no_checksum_is_sent_to_stores_that_would_refuse_it(server: type[_Scripted], store: S3Store) -> None:
    store.put("a", b"data")
    assert not server.seen_headers & PLAIN_HEADERS


def test_an_unreachable_store_is_a_storage_error() -> None:
    settings = StorageSettings(endpoint="http://127.0.0.1:1", access_key=SecretStr("a"), secret_key=SecretStr("b"))
    store = S3Store("bucket", "", settings.model_copy(update={"max_attempts": 1}))
    with pytest.raises(StorageError, match="could not get a"):
        store.get("a")
    with pytest.raises(StorageError):
        store.check()


def test_a_real_server_refuses_a_bad_secret_and_the_error_does_not_tell_it(s3_server: S3Server, s3_bucket: str) -> None:
    settings = s3_server.settings(s3_bucket).model_copy(update={"secret_key": SecretStr("not-the-secret")})
    with pytest.raises(StorageError, match=r"SignatureDoesNotMatch|AccessDenied") as caught:
        S3Store(s3_bucket, "objects", settings).put("a", b"x")
    assert "not-the-secret" not in str(caught.value)


def test_a_missing_bucket_is_a_matter_of_setup(s3_server: S3Server) -> None:
    store = S3Store("no-such-bucket-here", "", s3_server.settings("no-such-bucket-here"))
    with pytest.raises(SetupError, match="no-such-bucket-here"):
        store.check()
    with pytest.raises(StorageError):
        list(store.list(""))
