"""The protocol between the supervisor and the trainer: directories in an inbox, files that appear by rename.

INBOX/<run_id>/request.json          what to do
INBOX/<run_id>/<memory_id>.json      a context object, as the gateway stored it
INBOX/<run_id>/<memory_id>/          where the trainer exports that memory's adapter
INBOX/<run_id>/progress.jsonl        {"phase", "progress", "message", "data"} per line
INBOX/<run_id>/result.json           how it ended
INBOX/<run_id>/cancel                stop now
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """One context to distil: where it is, and the directory to export to."""

    memory_id: str
    title: str
    kind: str
    context_path: str
    directory: str


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run: compatible memories, one base, one recipe."""

    run_id: str
    base_reference: str
    base_dir: str
    encoder: str
    recipe: Mapping[str, Any]
    memories: tuple[MemoryRequest, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of progress; `progress` is the run's share done, 0 to 1."""

    phase: str
    progress: float
    message: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """What became of one memory. `error` is None, or says what is wrong with it; then there is no adapter."""

    memory_id: str
    directory: Path
    seconds_by_phase: dict[str, float]
    training: dict[str, Any]
    gate: dict[str, Any]
    error: str | None
    error_code: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """`ok` is False where the run as a whole failed; `error` says why."""

    ok: bool
    error: str | None
    memories: tuple[MemoryResult, ...]

    def of(self, memory_id: str) -> MemoryResult | None:
        return next((memory for memory in self.memories if memory.memory_id == memory_id), None)


def place(directory: Path, request: RunRequest) -> None:
    """Hands a request over, in the run's own directory, `<inbox>/<run_id>`."""
    partial = directory / "request.json.partial"
    partial.write_text(json.dumps(asdict(request)))
    partial.rename(directory / "request.json")


def ask_to_cancel(directory: Path) -> None:
    (directory / "cancel").touch()


class ProgressReader:
    """Reads what was added to `progress.jsonl` since the last look; a line counts once it is whole."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "progress.jsonl"
        self._offset = 0

    def read(self) -> Iterator[Progress]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            if (progress := _progress(line)) is not None:
                yield progress


def read_result(directory: Path) -> RunResult | None:
    """The result, or None while there is none that is whole."""
    try:
        fields = json.loads((directory / "result.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    memories = tuple(_memory(entry) for entry in fields.get("memories") or ())
    return RunResult(bool(fields.get("ok")), _text(fields.get("error")), memories)


def _progress(line: bytes) -> Progress | None:
    try:
        fields = json.loads(line)
        share = min(1.0, max(0.0, float(fields["progress"])))
        return Progress(str(fields["phase"]), share, str(fields.get("message", "")), dict(fields.get("data") or {}))
    except (ValueError, KeyError, TypeError):
        return None


def _memory(fields: Mapping[str, Any]) -> MemoryResult:
    error = fields.get("error")
    code = fields.get("error_code") or (error.get("code") if isinstance(error, Mapping) else None)
    return MemoryResult(
        memory_id=str(fields["memory_id"]),
        directory=Path(str(fields.get("directory", ""))),
        seconds_by_phase={str(name): float(value) for name, value in (fields.get("seconds_by_phase") or {}).items()},
        training=dict(fields.get("training") or {}),
        gate=dict(fields.get("gate") or {}),
        error=_text(error),
        error_code=str(code or "training_failed"),
    )


def _text(error: Any) -> str | None:
    if error is None:
        return None
    if isinstance(error, Mapping):
        return str(error.get("message") or error)
    return str(error)
