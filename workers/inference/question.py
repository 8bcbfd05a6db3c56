"""What is asked and what comes back, between the HTTP edge and the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.engine.generation import FinishReason
from core.engine.sampling import Sampling

Mode = Literal["auto", "off", "force"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which memories may answer: `ids`, or those of `collection`, or the whole bank.

    `auto` lets the gate decide, `off` leaves the base alone, `force` takes the best candidate whatever its score.
    `threshold` replaces each memory's own.
    """

    ids: tuple[str, ...] | None = None
    collection: str | None = None
    top_k: int | None = None
    mode: Mode = "auto"
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a tenant. `asked` is chat messages or plain text; `model` the base's name or a memory id.

    `max_tokens` `None` leaves it to the worker; `arrived` is on `time.perf_counter`'s clock.
    """

    tenant_id: str
    model: str
    asked: str | Sequence[Mapping[str, str]]
    scope: Scope = field(default_factory=Scope)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    arrived: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Judged:
    """One candidate as retrieval and gate saw it."""

    memory_id: str
    title: str
    digest: str
    score: float
    threshold: float
    dense: float
    lexical: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers: `served` is the memory, or `None` for the base; `abstained` where memories were asked for in vain.

    `candidates` are all that were judged, best first.
    """

    served: Judged | None
    candidates: tuple[Judged, ...]
    abstained: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing was done: the adapters' slots are all in use."""


@dataclass(frozen=True, slots=True)
class Started:
    """The decision is made and the answer begins."""

    decision: Decision
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """One token was generated; `text` may be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    completion_tokens: int


Event = Waiting | Started | Delta | Finished
