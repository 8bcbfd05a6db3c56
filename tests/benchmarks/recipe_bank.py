"""A suite's documents distilled in this process, and the bank that they make, without the stack."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from core.adapters.peft_format import load_adapter
from core.base_model.description import BaseDescription
from core.base_model.loading import load_base
from core.base_model.prepare import prepare
from core.evaluation.answering import Answerer
from core.evaluation.asking import Routing, ask_suite
from core.evaluation.bank import EvaluatedBank, Member, pack
from core.evaluation.features_file import write_features
from core.evaluation.figures import answer_figures, restraint_figures
from core.evaluation.gate_figures import gate_figures
from core.evaluation.judging import Gates
from core.evaluation.suite import Document, Suite
from core.retrieval.encoder import Encoder
from core.retrieval.index import BankIndex, load_index
from core.settings import RecipeSettings, Settings
from core.storage.manifest import Manifest
from workers.distillation.trainer.distilling import Distiller
from workers.distillation.trainer.engine import join_group
from workers.distillation.trainer.requests import MemoryRequest, Phase, Reporter, RunRequest

PACK = 8
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Distilled:
    """The adapters' directories by document; seconds are means over the memories, `loading` is not counted."""

    directories: Mapping[str, Path]
    loading: float
    seconds_by_phase: Mapping[str, float]
    bytes_per_memory: int
    training: Mapping[str, Mapping[str, Any]]


def distil_here(
    settings: Settings,
    recipe: RecipeSettings,
    suite: Suite,
    directory: Path,
    tell: Tell,
    starts: Mapping[str, Path] | None = None,
) -> Distilled:
    """Distils all documents, eight in a run; each from the adapter in `starts`, if it has one there.

    Raises `RuntimeError` where a memory can't be made.
    """
    started = time.monotonic()
    distiller = Distiller(join_group())
    distiller.warm(settings.base_model, settings.base_dir, settings.encoder)
    loading = time.monotonic() - started
    requests = [_request(document, directory, (starts or {}).get(document.id)) for document in suite.documents]
    seconds: dict[str, float] = {}
    training: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(requests), PACK):
        part = tuple(requests[start : start + PACK])
        run = RunRequest("bench", settings.base_model, settings.base_dir, settings.encoder, recipe, part)
        for outcome in distiller.distil(run, _Told(directory, tell), set):
            if outcome.error:
                raise RuntimeError(f"{outcome.memory_id} was not made: {dict(outcome.error)}")
            training[outcome.memory_id] = {k: v for k, v in outcome.training.items() if k not in ("recipe", "losses")}
            for phase, spent in outcome.seconds_by_phase.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent / len(requests)
    made = {request.memory_id: request.directory for request in requests}
    size = sum(file.stat().st_size for path in made.values() for file in path.iterdir())
    return Distilled(made, loading, {k: round(v, 2) for k, v in seconds.items()}, size // len(made), training)


def figures_of(settings: Settings, suite: Suite, made: Distilled, dump: Path | None, tell: Tell) -> dict[str, Any]:
    """The figures of `latentbank eval` by name, without those of the stack."""
    description: BaseDescription = prepare(settings.base_model, settings.base_dir)
    gates, members = Gates(settings.serving.false_activation), {}
    for document_id, directory in made.directories.items():
        gates.add(directory)
        # Nothing that is asked here looks into a manifest.
        manifest = cast(Manifest, None)
        members[document_id] = Member(
            document_id, document_id, manifest, load_index(directory), load_adapter(directory)
        )
    bank = EvaluatedBank(members, gates, BankIndex([member.index for member in members.values()]), {})
    base = load_base(description)
    answerer = Answerer(base, *pack(base.model, bank))
    routing = Routing(settings.serving.top_k, 0, settings.serving.max_active)

    def told(what: str, done: int, total: int) -> None:
        if done == total:
            tell(f"{what}: {total}")

    records, judgements = ask_suite(suite, bank, Encoder(settings.encoder), answerer, routing, told)
    figures = {**answer_figures(records, 0), **restraint_figures(records, 0), **gate_figures(judgements, 0)}
    if dump is not None:
        write_features(dump / "gate.npz", judgements)
        answers: list[dict[str, Any]] = [
            {"q": r.question.text, "role": r.question.role, "type": r.question.type, "accepted": r.question.answers}
            | {"documents": r.question.documents, "chosen": r.chosen}
            | {"answers": dict(r.answers)}
            for r in records
        ]
        (dump / "answers.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False))
    found = {name: figure.value for name, figure in figures.items()}
    low_high = {f"{name} interval": figure.interval for name, figure in figures.items()}
    return {**found, **low_high}


def _request(document: Document, directory: Path, start: Path | None) -> MemoryRequest:
    context = directory / f"{document.id}.json"
    context.write_text(json.dumps({"kind": "text", "title": document.title, "text": document.text}))
    return MemoryRequest(document.id, document.title, "text", context, directory / document.id, start_from=start)


class _Told(Reporter):
    """Tells progress instead of writing it."""

    def __init__(self, directory: Path, tell: Tell) -> None:
        super().__init__(directory, silent=True)
        self._tell = tell

    def progress(self, phase: Phase, progress: float, message: str, data: Mapping[str, Any] | None = None) -> None:
        self._tell(f"{(data or {}).get('memory_id', '?')}: {phase}: {message}")
