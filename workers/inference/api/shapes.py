"""Events as OpenAI's answers: one object, or chunks. Pure."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from core.ids import new_id
from workers.inference.question import Absent, Decision, Finished, Judged, Started

Kind = Literal["chat", "text"]
Fields = dict[str, Any]

_OBJECTS = {"chat": ("chatcmpl", "chat.completion"), "text": ("cmpl", "text_completion")}


@dataclass(slots=True)
class AnswerShape:
    """The shapes of one answer; `model` is echoed as it was asked for, as OpenAI does."""

    kind: Kind
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = self.id or new_id("req").replace("req_", f"{_OBJECTS[self.kind][0]}-")

    def whole(self, text: str, started: Started, finished: Finished) -> Fields:
        content: Fields = (
            {"message": {"role": "assistant", "content": text, "refusal": None}}
            if self.kind == "chat"
            else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finished.reason}
        return {
            **self._head(chunk=False),
            "choices": [choice],
            "usage": usage(started, finished),
            "memory": memory_report(started.decision),
        }

    def first(self, started: Started) -> Fields:
        return {**self._chunk("", role=True), "memory": memory_report(started.decision)}

    def delta(self, text: str) -> Fields:
        return self._chunk(text)

    def last(self, started: Started, finished: Finished) -> Fields:
        return {**self._chunk(None, finish_reason=finished.reason), "memory": memory_report(started.decision)}

    def usage(self, started: Started, finished: Finished) -> Fields:
        """The extra chunk of `stream_options.include_usage`: no choices."""
        return {
            **self._head(chunk=True),
            "choices": [],
            "usage": usage(started, finished),
            "memory": memory_report(started.decision),
        }

    def _head(self, *, chunk: bool) -> Fields:
        name = _OBJECTS[self.kind][1] + (".chunk" if chunk and self.kind == "chat" else "")
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _chunk(self, text: str | None, *, role: bool = False, finish_reason: str | None = None) -> Fields:
        delta = {} if text is None else {"role": "assistant", "content": text} if role else {"content": text}
        content: Fields = {"delta": delta} if self.kind == "chat" else {"text": text or ""}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head(chunk=True), "choices": [choice]}


def usage(started: Started, finished: Finished) -> Fields:
    return {
        "prompt_tokens": started.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": started.prompt_tokens + finished.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": started.cached_tokens},
    }


def memory_report(decision: Decision) -> Fields:
    """The `memory` extension; where none served, `score` and `threshold` are the best candidate's."""
    served = decision.text or decision.served
    best = served or (decision.candidates[0] if decision.candidates else None)
    return {
        "served_by": "text" if decision.text else served.memory_id if served else None,
        "served_by_all": [one.memory_id for one in ([decision.text] if decision.text else decision.active)],
        "memory_id": served.memory_id if served else None,
        "digest": served.digest if served else None,
        "title": served.title if served else None,
        "score": best.score if best else None,
        "threshold": best.threshold if best else None,
        "candidates": [*map(_candidate, decision.candidates), *map(_absent, decision.absent)],
        "abstained": decision.abstained,
    }


def model_card(name: str, created: int, *, root: str, parent: str | None, title: str | None = None) -> Fields:
    """One entry of `GET /v1/models`; a memory's `root` is its digest and its `parent` the base, as vLLM shows LoRAs."""
    card: Fields = {"id": name, "object": "model", "created": created, "owned_by": "latentbank", "root": root}
    return {**card, "parent": parent} | ({"title": title} if title is not None else {})


def server_sent(fields: Fields) -> str:
    return f"data: {json.dumps(fields, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _candidate(one: Judged) -> Fields:
    fields: Fields = {
        "memory_id": one.memory_id,
        "title": one.title,
        "rank": one.rank,
        "retrieval_score": one.retrieval_score,
        "score": one.score,
        "threshold": one.threshold,
        "passed": one.passed,
    }
    if one.by_text:
        fields["by_text"] = True
    return fields if one.signals is None else {**fields, "signals": dict(one.signals)}


def _absent(one: Absent) -> Fields:
    return {
        "memory_id": one.memory_id,
        "title": one.title,
        "rank": one.rank,
        "retrieval_score": one.retrieval_score,
        "score": None,
        "threshold": None,
        "passed": False,
        "unavailable": one.reason,
    }
