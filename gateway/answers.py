"""The `memory` extension of an answer, for the OpenAPI document; inference workers write it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CandidateReport(BaseModel):
    """A memory that retrieval proposed, and how the gate judged it; or one that can't be judged now, and why."""

    memory_id: str
    title: str
    rank: int | None = Field(ge=0)
    """Its place in retrieval's order, from 0."""
    retrieval_score: float | None
    """Comparable within one question only."""
    score: float | None = Field(ge=0, le=1)
    """The gate's probability that this memory answers the question."""
    threshold: float | None = Field(ge=0, le=1)
    passed: bool
    unavailable: str | None = None
    """The code of the error that keeps its adapter from being judged; it is tried again later."""
    by_text: bool = False
    """It has no adapter here (yet), so retrieval alone says how well its text fits: `score` is that."""
    signals: dict[str, float] = {}
    """The gate's features by name; only where the request says `memory.explain`."""


class MemoryReport(BaseModel):
    """Which memory answered, and why; `score` and `threshold` are the best candidate's where none did."""

    served_by: str | None
    """The memory whose adapter answered; `text` where the base answered with the text of `memory_id` before it."""
    served_by_all: list[str]
    """All memories that answered together, the best one first."""
    memory_id: str | None
    digest: str | None
    """Of the adapter, or of the context whose text was read."""
    title: str | None
    score: float | None
    threshold: float | None
    candidates: list[CandidateReport]
    abstained: bool


class Answer(BaseModel):
    """OpenAI's answer with `memory` beside its own fields."""

    model_config = ConfigDict(extra="allow")

    memory: MemoryReport
