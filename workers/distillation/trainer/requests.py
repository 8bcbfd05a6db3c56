"""What the parent asks of the trainer, and what it is told: files in a run's directory.

The parent puts `request.json` there by rename; the trainer appends to `progress.jsonl`, writes `outcomes/<memory>.json`
as each memory is done, and ends with `result.json`; those appear by rename. A file named `cancel` asks it to stop, one
named `cancel.<memory>` to go on without that memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.errors import InvalidRequest, LatentBankError
from core.settings import RecipeSettings

REQUEST = "request.json"
PROGRESS = "progress.jsonl"
RESULT = "result.json"
CANCEL = "cancel"
OUTCOMES = "outcomes"

LEFT_OUT: Mapping[str, str] = {"code": "cancelled", "message": "The run went on without this memory."}

UNFORESEEN = "distillation_failed"
"""The code of an error that no context is to blame for."""


class Cancelled(Exception):
    """The run's cancel file appeared."""


Phase = Literal["self_study", "training", "calibrating"]


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """One context to distil; the adapter is written into `directory`.

    `start_from` is the directory of the adapter of the context's earlier version, where there is one.
    """

    memory_id: str
    title: str
    kind: str
    context_path: Path
    directory: Path
    tenant_id: str = ""
    start_from: Path | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Memories of one base model, distilled in one run."""

    run_id: str
    base_reference: str
    base_dir: Path
    encoder: str
    recipe: RecipeSettings
    memories: tuple[MemoryRequest, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one memory ended: `error` is `{code, message}`, or `None` where `directory` holds a whole adapter.

    `seconds_by_phase` also names the parts of a phase that the trainer times by themselves.
    """

    memory_id: str
    directory: str
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "memory_id": self.memory_id,
            "directory": self.directory,
            "seconds_by_phase": dict(self.seconds_by_phase),
            "training": dict(self.training),
            "gate": dict(self.gate),
            "error": dict(self.error) if self.error else None,
        }


def failure(problem: Exception) -> dict[str, str]:
    """A problem as the parent is told of it; an unforeseen one by its type alone, its text may quote a context."""
    if isinstance(problem, LatentBankError):
        return {"code": problem.code, "message": problem.message}
    return {"code": UNFORESEEN, "message": type(problem).__name__}


def parse_request(text: str) -> RunRequest:
    """Raises `InvalidRequest` where the text is not a run request."""
    try:
        fields = json.loads(text)
        return RunRequest(
            run_id=str(fields["run_id"]),
            base_reference=str(fields["base_reference"]),
            base_dir=Path(fields["base_dir"]),
            encoder=str(fields["encoder"]),
            recipe=RecipeSettings.model_validate(fields.get("recipe", {})),
            memories=tuple(
                MemoryRequest(
                    str(memory["memory_id"]),
                    str(memory["title"]),
                    str(memory["kind"]),
                    Path(memory["context_path"]),
                    Path(memory["directory"]),
                    str(memory.get("tenant_id", "")),
                    Path(memory["start_from"]) if memory.get("start_from") else None,
                )
                for memory in fields["memories"]
            ),
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise InvalidRequest(f"The run request can't be read: {type(problem).__name__}") from problem


def waiting(inbox: Path) -> Path | None:
    """The run directory that has waited longest: with a request and without a result."""
    requests = [path for path in inbox.glob(f"*/{REQUEST}") if not (path.parent / RESULT).exists()]
    return min(requests, key=lambda path: (path.stat().st_mtime, path.parent.name)).parent if requests else None


class Reporter:
    """Writes progress and result of one run; silent on every rank but the first."""

    def __init__(self, directory: Path, *, silent: bool = False) -> None:
        self._directory = directory
        self._silent = silent

    def progress(self, phase: Phase, progress: float, message: str, data: Mapping[str, Any] | None = None) -> None:
        """`progress` is the share of the memory's whole way, 0 to 1."""
        if self._silent:
            return
        line = {"phase": phase, "progress": round(progress, 4), "message": message, "data": dict(data or {})}
        with (self._directory / PROGRESS).open("a") as file:
            file.write(json.dumps({**line, "at": time.time()}) + "\n")

    def outcome(self, outcome: Outcome) -> None:
        """Says how one memory ended, before the run has."""
        if not self._silent:
            self._place(self._directory / OUTCOMES / f"{outcome.memory_id}.json", outcome.to_json())

    def result(self, outcomes: Sequence[Outcome], *, cancelled: bool = False, error: str | None = None) -> None:
        if self._silent:
            return
        ok = not cancelled and error is None and all(outcome.error is None for outcome in outcomes)
        fields = {
            "ok": ok,
            "cancelled": cancelled,
            "error": error,
            "memories": [outcome.to_json() for outcome in outcomes],
        }
        self._place(self._directory / RESULT, fields)

    @property
    def cancel_requested(self) -> bool:
        return (self._directory / CANCEL).exists()

    def cancelled(self, memory_id: str) -> bool:
        """Whether the run is to go on without this memory."""
        return (self._directory / f"{CANCEL}.{memory_id}").exists()

    def told(self, memory_id: str) -> bool:
        """Whether this memory's outcome has been said."""
        return (self._directory / OUTCOMES / f"{memory_id}.json").exists()

    @staticmethod
    def _place(path: Path, fields: Mapping[str, Any]) -> None:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(fields, indent=1))
        partial.rename(path)
