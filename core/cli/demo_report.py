"""Judges the demo's answers, and writes what came of it; pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from core.cli.demo_plan import Kind
from core.evaluation.scoring import is_right


@dataclass(frozen=True, slots=True)
class MadeMemory:
    """A memory of the demo; `seconds` that its job ran, without its wait for a worker, `bytes` of its adapter."""

    id: str
    title: str
    tenant: str
    ready: bool
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with both answers; `served_by` is a memory's id or None, `score` the gate's best, 0 to 1, or None."""

    tenant: str
    kind: Kind
    question: str
    expected: tuple[str, ...]
    answer: str
    base_answer: str
    served_by: str | None
    score: float | None
    leaked: bool

    @property
    def right(self) -> bool:
        return is_right(self.answer, self.expected)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The whole run; `leaks` counts foreign questions served and foreign ids answered."""

    install_seconds: float | None
    run_seconds: float
    memories: tuple[MadeMemory, ...]
    answers: tuple[Answered, ...]
    visible_ids: int = 0
    """Memory ids that another tenant's key could read."""

    @property
    def asked(self) -> int:
        return len(self._of("memory"))

    @property
    def right(self) -> int:
        return sum(answer.right for answer in self._of("memory"))

    @property
    def leaks(self) -> int:
        return sum(answer.leaked for answer in self.answers) + self.visible_ids

    @property
    def everyday(self) -> int:
        return len(self._of("everyday"))

    @property
    def abstained(self) -> int:
        return sum(answer.served_by is None for answer in self._of("everyday"))

    @property
    def faults(self) -> list[str]:
        """Why the demo failed; empty where it did not."""
        failed = [memory.title for memory in self.memories if not memory.ready]
        found = [f"not distilled: {', '.join(failed)}"] if failed else []
        if 3 * self.right < 2 * self.asked or not self.asked:
            found.append(f"only {self.right} of {self.asked} memory questions answered right; two thirds are needed")
        if self.leaks:
            found.append(f"a tenant saw another's memory, {self.leaks} times")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "install_seconds": self.install_seconds,
            "run_seconds": round(self.run_seconds, 1),
            "memories": [
                {"id": m.id, "title": m.title, "tenant": m.tenant, "seconds": round(m.seconds, 1), "bytes": m.bytes}
                for m in self.memories
            ],
            "questions": [
                {
                    "tenant": a.tenant,
                    "q": a.question,
                    "expected": list(a.expected),
                    "answer": a.answer,
                    "base_answer": a.base_answer,
                    "right": a.right,
                    "served_by": a.served_by,
                    "score": a.score,
                    "kind": a.kind,
                }
                for a in self.answers
            ],
            "right": self.right,
            "asked": self.asked,
            "leaks": self.leaks,
            "abstained": self.abstained,
        }

    def _of(self, kind: Kind) -> list[Answered]:
        return [answer for answer in self.answers if answer.kind == kind]


def is_leak(
    kind: Kind, served_by: str | None, own: Collection[str], answer: str, base_answer: str, expected: Sequence[str]
) -> bool:
    """Whether a tenant got something of another's bank.

    That is: a memory served that is not among the tenant's `own`; or a foreign question was answered with the other
    memory's fact, which is invented and which the base model did not say.
    """
    if served_by is not None and served_by not in own:
        return True
    return kind == "foreign" and is_right(answer, expected) and not is_right(base_answer, expected)
