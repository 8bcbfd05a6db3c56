"""The protocol between the supervisor and the trainer: directories in an inbox, files that appear by rename.

INBOX/<run_id>/request.json          what to do
INBOX/<run_id>/<memory_id>.json      a context object, as the gateway stored it
INBOX/<run_id>/<memory_id>/          where the trainer exports that memory's adapter
INBOX/<run_id>/progress.jsonl        {"phase", "progress", "message", "data"} per line, about data.memory_id
INBOX/<run_id>/outcomes/<id>.json    how one memory ended, as soon as it has
INBOX/<run_id>/result.json           how the run ended, with all outcomes
INBOX/<run_id>/cancel.<memory_id>    go on without that memory
INBOX/<run_id>/cancel                stop now
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CANCELLED = "cancelled"
"""The trainer's word for a memory that it left out."""
_UNFORESEEN = "distillation_failed"


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """One context to distil: where it is, and the directory to export to.

    `start_from` is the directory of the adapter of an earlier version, where there is one.
    """

    memory_id: str
    tenant_id: str
    title: str
    kind: str
    context_path: str
    directory: str
    start_from: str | None = None


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
    """One line of progress; `progress` is the memory's share done, 0 to 1. `memory_id` may be empty: of none."""

    memory_id: str
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

    @property
    def unforeseen(self) -> bool:
        """Whether the trainer did not foresee the error, so that its processes may be broken."""
        return self.error is not None and self.error_code == _UNFORESEEN


@dataclass(frozen=True, slots=True)
class RunResult:
    """`ok` is False where the run as a whole failed; `error` says why."""

    ok: bool
    error: str | None
    memories: tuple[MemoryResult, ...]


def place(directory: Path, request: RunRequest) -> None:
    """Hands a request over, in the run's own directory, `<inbox>/<run_id>`."""
    partial = directory / "request.json.partial"
    partial.write_text(json.dumps(asdict(request)))
    partial.rename(directory / "request.json")


def ask_to_cancel(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (directory / "cancel").touch()


def ask_to_leave_out(directory: Path, memory_id: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        (directory / f"cancel.{memory_id}").touch()


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


class OutcomeReader:
    """Reads the outcomes that are new since the last look."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "outcomes"
        self._seen: set[str] = set()

    def read(self, result: RunResult | None) -> Iterator[MemoryResult]:
        """In the order in which they appeared; then those that only the result of the run names."""
        paths = [path for path in self._directory.glob("*.json") if path.stem not in self._seen]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
            self._seen.add(path.stem)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                yield _memory(json.loads(path.read_bytes()))
        for memory in result.memories if result is not None else ():
            if memory.memory_id not in self._seen:
                self._seen.add(memory.memory_id)
                yield memory


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
        data = dict(fields.get("data") or {})
        memory_id = str(data.pop("memory_id", ""))
        return Progress(memory_id, str(fields["phase"]), share, str(fields.get("message", "")), data)
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
