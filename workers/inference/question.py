"""What is asked and what comes back, between the HTTP edge and the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.engine.generation import FinishReason
from core.engine.sampling import Sampling
from core.truth.records import Fallback

Mode = Literal["auto", "off", "force"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which memories may answer: `ids`, or those of `collection`, or the whole bank.

    `auto` lets the gate decide, `off` leaves the base alone, `force` takes the best candidate whatever its score.
    `threshold` replaces the gate's, `max_active` the worker's, `fallback` the tenant's; `explain` asks for the
    candidates' signals.
    """

    ids: tuple[str, ...] | None = None
    collection: str | None = None
    top_k: int | None = None
    mode: Mode = "auto"
    threshold: float | None = None
    max_active: int | None = None
    explain: bool = False
    fallback: Fallback | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
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
    """One candidate as retrieval and gate saw it.

    `rank` and `retrieval_score` are retrieval's, from 0 and comparable within one question; `score` is the gate's
    probability that the memory answers, `passed` whether that reaches `threshold`. `signals` are the gate's features by
    name, where the question asks for them.

    With `by_text` retrieval alone was asked, since the memory has no adapter here (yet): `score` is its relevance; or
    the gate was in doubt. `digest` is then that of the context.
    """

    memory_id: str
    title: str
    digest: str
    rank: int
    retrieval_score: float
    score: float
    threshold: float
    signals: Mapping[str, float] | None = None
    by_text: bool = False

    @property
    def passed(self) -> bool:
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Absent:
    """A memory that could not be judged, because its adapter can't be had now; `reason` is the error's code.

    `rank` and `retrieval_score` are retrieval's, `None` where not even its index can be read.
    """

    memory_id: str
    title: str
    reason: str
    rank: int | None = None
    retrieval_score: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers: the memories `active` together, best first, or the base where there are none.

    `weights` says how strongly each of them speaks, the best one's being 1. `abstained` where memories were asked for
    in vain. `candidates` are all that were judged, best first; `absent` those that could not be. With `text` the base
    answers, that memory's text before the question.
    """

    active: tuple[Judged, ...]
    weights: tuple[float, ...]
    candidates: tuple[Judged, ...]
    abstained: bool
    absent: tuple[Absent, ...] = ()
    text: Judged | None = None

    @property
    def served(self) -> Judged | None:
        """The best of those that answer."""
        return self.active[0] if self.active else None


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
