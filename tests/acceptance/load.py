"""Questions and contexts that never stop, through a balancer as operators have them."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import httpx

from tests.acceptance.fleet import answers

PATIENCE_SECONDS = 120.0


class Balancer:
    """Asks each gateway's `/ready` again and again, and sends requests to those that said yes, in turn.

    It tries no request twice. Connections are kept, as a balancer keeps them.
    """

    def __init__(self, urls: Sequence[str], check_seconds: float = 0.2) -> None:
        self._ready = dict.fromkeys(urls, False)
        self._check_seconds = check_seconds
        self._turns = itertools.count()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._check, args=(url,), daemon=True) for url in urls]

    def __enter__(self) -> Balancer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def pick(self) -> str:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not (ready := [url for url, is_ready in self._ready.items() if is_ready]):
            assert time.monotonic() < give_up, "no gateway is ready"
            time.sleep(0.05)
        return ready[next(self._turns) % len(ready)]

    def _check(self, url: str) -> None:
        while not self._ended.is_set():
            self._ready[url] = answers(f"{url}/ready")
            self._ended.wait(self._check_seconds)


@dataclass(slots=True)
class Load:
    """What was asked and sent, and what went wrong with it. `under_way`: streams that have begun and not ended."""

    balancer: Balancer
    answered: int = 0
    streamed: int = 0
    looked: int = 0
    under_way: int = 0
    admitted: list[tuple[str, str]] = field(default_factory=list)
    """Ids of each accepted memory and its job."""
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def ask(self, key: str, body: dict[str, object], pause: float = 0.5) -> None:
        """Questions whose answers come whole."""
        self._repeat(lambda http: self._ask(http, body), key, pause)

    def ask_streaming(self, key: str, body: dict[str, object], pause: float = 0.2) -> None:
        self._repeat(lambda http: self._stream(http, {**body, "stream": True}), key, pause)

    def submit(self, key: str, text: str = "train", pause: float = 0.5) -> None:
        self._repeat(lambda http: self._submit(http, text), key, pause)

    def look(self, key: str, pause: float = 0.05) -> None:
        """Small requests close upon each other, so that hardly a moment is without one on its way."""
        self._repeat(self._look, key, pause)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def _repeat(self, once: Callable[[httpx.Client], None], key: str, pause: float) -> None:
        def run() -> None:
            headers = {"Authorization": f"Bearer {key}"}
            with httpx.Client(headers=headers, timeout=PATIENCE_SECONDS, trust_env=False) as http:
                while not self._stop.is_set():
                    try:
                        once(http)
                    except (httpx.HTTPError, ValueError, KeyError, IndexError) as problem:
                        self.wrong.append(f"{time.strftime('%X')} {problem!r}")
                    self._stop.wait(pause)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _ask(self, http: httpx.Client, body: dict[str, object]) -> None:
        url = self.balancer.pick()
        answer = http.post(f"{url}/v1/chat/completions", json=body)
        if answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] in ("stop", "length"):
            self.answered += 1
        else:
            self.wrong.append(f"{time.strftime('%X')} {url} answered {answer.status_code}: {answer.text}")

    def _stream(self, http: httpx.Client, body: dict[str, object]) -> None:
        url = self.balancer.pick()
        self.under_way += 1
        try:
            with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        finally:
            self.under_way -= 1
        whole = len(lines) > 2 and lines[-1] == "[DONE]"
        chunks = [json.loads(line) for line in lines if line.startswith("{") and line != "[DONE]"]
        if whole and not any("error" in chunk for chunk in chunks) and chunks[-1]["choices"][0]["finish_reason"]:
            self.streamed += 1
        else:
            self.wrong.append(f"{time.strftime('%X')} {url} streamed {answer.status_code}: {lines[-3:]}")

    def _look(self, http: httpx.Client) -> None:
        url = self.balancer.pick()
        answer = http.get(f"{url}/v1/models")
        if answer.status_code == 200:
            self.looked += 1
        else:
            self.wrong.append(f"{time.strftime('%X')} {url} answered {answer.status_code}: {answer.text}")

    def _submit(self, http: httpx.Client, text: str) -> None:
        url = self.balancer.pick()
        answer = http.post(f"{url}/v1/memories", json={"title": "A title", "text": text})
        if answer.status_code == 202:
            self.admitted.append((answer.json()["id"], answer.json()["job_id"]))
        else:
            self.wrong.append(f"{time.strftime('%X')} {url} answered {answer.status_code}: {answer.text}")
