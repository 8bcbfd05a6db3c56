"""What the gateway knows of the base model: its description and its tokenizer, never its weights, never torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Event, Lock, Thread

from tokenizers import Tokenizer

from core.base_model.description import BaseDescription
from core.errors import SetupError, Unavailable
from core.logs import get_logger

RETRY_SECONDS = 30.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A prepared base: what it is, and how long a text is in its tokens."""

    description: BaseDescription
    tokenizer: Tokenizer

    def count_tokens(self, texts: Iterable[str]) -> int:
        """Tokens of all `texts` together, without special tokens."""
        return sum(len(self.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)


def open_base_model(description: BaseDescription) -> BaseModel:
    tokenizer = Tokenizer.from_file(str(description.tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return BaseModel(description, tokenizer)


class BasePreparation:
    """Prepares the base in a thread, since a first conversion takes half a minute; tries again where that fails."""

    def __init__(self, prepare: Callable[[], BaseDescription], retry_seconds: float = RETRY_SECONDS) -> None:
        self._prepare = prepare
        self._retry_seconds = retry_seconds
        self._lock = Lock()
        self._base: BaseModel | None = None
        self._problem = "The base model is being prepared; try again in a minute."
        self._stopped = Event()

    def start(self) -> Thread:
        # A daemon: the preparing child may outlast a shutdown, and its copy appears whole or not at all.
        thread = Thread(target=self._run, name="base-preparation", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._stopped.set()

    @property
    def base(self) -> BaseModel:
        """The base; raises `Unavailable`, with the reason, where it is not prepared yet."""
        with self._lock:
            if self._base is None:
                raise Unavailable(self._problem)
            return self._base

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                base = open_base_model(self._prepare())
            except SetupError as problem:
                self._failed(problem.message)
            except Exception as problem:  # noqa: BLE001 - a thread's boundary: a broken tokenizer file raises anything
                self._failed(f"The base model can't be read: {problem}")
            else:
                with self._lock:
                    self._base = base
                _log.info("base model ready", base=base.description.name, base_digest=base.description.digest)
                return
            self._stopped.wait(self._retry_seconds)

    def _failed(self, reason: str) -> None:
        _log.error("the base model is not ready", reason=reason)
        with self._lock:
            self._problem = reason
