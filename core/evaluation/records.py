"""What came of asking a suite: one record a question, one judgement a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.evaluation.pairs import Pair
from core.evaluation.scoring import is_right, token_f1
from core.evaluation.suite import Document, Question

Condition = Literal["no_memory", "full_context", "rag", "wrong_adapter", "oracle", "routed"]
CONDITIONS: tuple[Condition, ...] = ("no_memory", "full_context", "rag", "wrong_adapter", "oracle", "routed")


@dataclass(frozen=True, slots=True)
class Record:
    """A question and its answer under each condition that applies to it.

    `candidates` are the documents whose memories retrieval proposed, best first; `chosen` those that the gate
    activated, none where it abstained.
    """

    question: Question
    answers: Mapping[Condition, str]
    candidates: tuple[str, ...]
    chosen: tuple[str, ...]

    def right(self, condition: Condition) -> float | None:
        """1 or 0; `None` where the question was not asked so."""
        answer = self.answers.get(condition)
        return None if answer is None else float(is_right(answer, self.question.answers))

    def f1(self, condition: Condition) -> float | None:
        answer = self.answers.get(condition)
        return None if answer is None else token_f1(answer, self.question.answers)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate saw and said of a pair."""

    pair: Pair
    features: tuple[float, ...]
    score: float
    threshold: float
    entropy: float
    """Of the adapter's first token, in nats."""

    @property
    def passes(self) -> bool:
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Made:
    """How a document's memory came about.

    Times are Unix seconds of its job: `submitted`, `began` to run after its wait for a worker, `finished`. `problem`
    says why there is no memory. `bytes` are of all its published files, `adapter_bytes` of the weights alone,
    `kv_bytes` of the text's KV cache. `losses` are `(step, nats per token)`.
    """

    document: Document
    memory_id: str | None
    ready: bool
    problem: str | None
    submitted: float | None
    finished: float | None
    began: float | None = None
    reused: bool = False
    job_id: str | None = None
    bytes: int | None = None
    adapter_bytes: int | None = None
    kv_bytes: int | None = None
    seconds_by_phase: Mapping[str, float] | None = None
    losses: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """One question over HTTP: the routed answer, and milliseconds to the first word under each condition."""

    question_id: str
    answer: str
    routed_ttft_ms: float
    rag_ttft_ms: float
    rag_cached_ttft_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the figures are made of."""

    records: tuple[Record, ...]
    judgements: tuple[Judgement, ...]
    made: tuple[Made, ...]
    served: tuple[Served, ...]
    peak_rss_bytes: int | None
