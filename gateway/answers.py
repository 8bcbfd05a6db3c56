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
    signals: dict[str, float] = {}
    """The gate's features by name; only where the request says `memory.explain`."""


class MemoryReport(BaseModel):
    """Which memory answered, and why; `score` and `threshold` are the best candidate's where none did."""

    served_by: str | None
    served_by_all: list[str]
    """All memories that answered together, the best one first."""
    digest: str | None
    title: str | None
    score: float | None
    threshold: float | None
    candidates: list[CandidateReport]
    abstained: bool


class Answer(BaseModel):
    """OpenAI's answer with `memory` beside its own fields."""

    model_config = ConfigDict(extra="allow")

    memory: MemoryReport
