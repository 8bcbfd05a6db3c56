"""What the demo remembers and asks: `examples/demo.json`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.cli.sources import context_of
from core.errors import SetupError

Kind = Literal["memory", "foreign", "everyday"]


@dataclass(frozen=True, slots=True)
class PlannedMemory:
    """A context for a tenant; `fields` are those of `POST /v1/memories`."""

    tenant: str
    title: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedQuestion:
    """A question asked with `tenant`'s key.

    `expected` are the accepted answers; of a `foreign` question they are facts of another tenant's memory.
    """

    tenant: str
    kind: Kind
    text: str
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """Tenants, contexts, and questions in the order of asking: by memory, then foreign, then everyday."""

    tenants: tuple[str, ...]
    memories: tuple[PlannedMemory, ...]
    questions: tuple[PlannedQuestion, ...]


def examples_dir() -> Path:
    """The checkout's `examples/`. Raises `SetupError` where LatentBank is not run from a checkout."""
    found = Path(__file__).resolve().parents[2] / "examples"
    if not (found / "demo.json").is_file():
        raise SetupError("The demo needs the examples of a checkout; run it there, or give --examples DIRECTORY.")
    return found


def read_plan(directory: Path) -> DemoPlan:
    """Reads `demo.json` and the contexts it names. Raises `SetupError` where it does not fit together."""
    try:
        written = json.loads((directory / "demo.json").read_text(encoding="utf-8"))
        tenants = tuple(written["tenants"])
        memories = tuple(_memory(directory, entry) for entry in written["memories"])
        own = [_question(entry["tenant"], "memory", q) for entry in written["memories"] for q in entry["questions"]]
        foreign = [
            _question(other, "foreign", q)
            for entry in written["memories"]
            for q in entry["questions"]
            if q.get("foreign")
            for other in tenants
            if other != entry["tenant"]
        ]
        everyday = [_question(q["tenant"], "everyday", q) for q in written["everyday"]]
    except (OSError, KeyError, TypeError, ValueError) as wrong:
        raise SetupError(f"{directory / 'demo.json'} can't be used: {wrong!r}") from wrong
    return DemoPlan(tenants, memories, (*own, *foreign, *everyday))


def _memory(directory: Path, entry: Mapping[str, Any]) -> PlannedMemory:
    title = str(entry["title"])
    fields = context_of((directory / entry["file"]).read_bytes(), title) | {"title": title}
    return PlannedMemory(str(entry["tenant"]), title, fields)


def _question(tenant: str, kind: Kind, entry: Mapping[str, Any]) -> PlannedQuestion:
    return PlannedQuestion(tenant, kind, str(entry["q"]), tuple(entry["accepted"]))
