"""From a context to an adapter with its samples for the gate and its index: the phases of one memory, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase, best_device, load_base
from core.base_model.prepare import prepare
from core.gate.samples import Kind, Sample, count_by_kind
from core.retrieval.encoder import Encoder
from core.retrieval.entries import entries_of
from core.retrieval.index import MemoryIndex
from core.settings import RecipeSettings
from workers.distillation.trainer.calibrating import samples_of
from workers.distillation.trainer.contexts import Context, read_context
from workers.distillation.trainer.engine import AdapterEngine, read_config, zero_stage
from workers.distillation.trainer.exporting import export
from workers.distillation.trainer.off_topic import JUDGE, LEARN, about_strangers, unanswerable
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import MemoryRequest, Outcome, Reporter, RunRequest
from workers.distillation.trainer.self_study import Study, study
from workers.distillation.trainer.targets import Lesson, base_lessons, lessons
from workers.distillation.trainer.training import Trained, student_loss, train

SLOT = 1
STUDY_SHARE = 0.35
TRAINING_SHARE = 0.55
"""Parts of a memory's way, for its progress; the rest is calibration."""
LEAST_POSITIVES = 6
STUDY_PASSES = (0.4, 0.7)
"""Parts of self-study that are done after its passes."""


class Distiller:
    """Base model, encoder and engine, made once and kept warm between runs."""

    def __init__(self, ranks: Ranks, deepspeed_config: Path | None = None) -> None:
        self._config = read_config(deepspeed_config, ranks.size)
        self.ranks = ranks.in_lockstep() if zero_stage(self._config) == 3 else ranks
        self._warm: Warm | None = None

    def warm(self, base_reference: str, base_dir: Path, encoder: str) -> Warm:
        """Base and encoder, loaded if others or none are."""
        key = (base_reference, str(base_dir), encoder)
        if self._warm is None or self._warm.key != key:
            self._warm = None
            description = prepare(base_reference, base_dir)
            self._warm = Warm(key, load_base(description, _own_device()), Encoder(encoder))
        return self._warm

    def distil(
        self, request: RunRequest, memory: MemoryRequest, reporter: Reporter, check: Callable[[], None]
    ) -> Outcome:
        """All phases of one memory; every rank takes part, rank 0 writes the files."""
        clock = Clock()
        recipe = request.recipe
        told = {"memory_id": memory.memory_id}
        check()
        reporter.progress("self_study", 0.0, "reading the context", told)
        with clock.timed("loading"):
            warm = self.warm(request.base_reference, request.base_dir, request.encoder)
            engine = warm.engine(recipe, self._config, self.ranks)
        context = read_context(memory.context_path, memory.title)
        shares = iter(STUDY_PASSES)

        def passed(message: str) -> None:
            check()
            reporter.progress("self_study", STUDY_SHARE * next(shares), message, told)

        with clock.timed("self_study"):
            studied = study(warm.base, context, recipe, self.ranks, passed)
        reporter.progress("self_study", STUDY_SHARE * 0.8, f"{len(studied.learn)} pairs to learn", told)
        with clock.timed("targets"):
            spare = unanswerable(context.title, context.text)
            keep = [*warm.kept(recipe, self.ranks), *base_lessons(warm.base, spare[::2], recipe, self.ranks)]
            learn, held_out = lessons(warm.base, studied.learn), lessons(warm.base, studied.held_out)

        def progress(step: int, steps: int, loss: float) -> None:
            share = STUDY_SHARE + TRAINING_SHARE * step / steps
            reporter.progress("training", share, f"step {step} of {steps}", {**told, "step": step, "loss": loss})

        reporter.progress("training", STUDY_SHARE, "training", told)
        with clock.timed("training"):
            trained = train(
                engine, learn, keep, held_out, recipe, self.ranks, slot=SLOT, check=check, progress=progress
            )
        reporter.progress("calibrating", STUDY_SHARE + TRAINING_SHARE, "drafting for the gate", told)
        with clock.timed("calibrating"):
            questions = judged(context, studied, spare[1::2])
            index = _index(warm.encoder, memory, context, studied, questions["own"])
            samples = samples_of(warm.base, engine.adapters, warm.encoder, index, questions, slot=SLOT)
        check()
        with clock.timed("exporting"):
            weights = engine.read(SLOT)
            report = _report(studied, trained, recipe)
            if self.ranks.leads:
                export(memory.directory, warm.base, weights, samples, index, request.encoder, recipe, report)
        reporter.progress("calibrating", 1.0, "exported", told)
        return Outcome(memory.memory_id, str(memory.directory), clock.seconds, report, _gate_report(samples))


class Warm:
    """What stays loaded: a base, an encoder, the engine of the last recipe, and the base's answers to keep."""

    def __init__(self, key: tuple[str, str, str], base: LoadedBase, encoder: Encoder) -> None:
        self.key = key
        self.base = base
        self.encoder = encoder
        self._engine: AdapterEngine | None = None
        self._shape: Any = None
        self._kept: dict[tuple[int, int], list[Lesson]] = {}

    def engine(self, recipe: RecipeSettings, config: dict[str, Any], ranks: Ranks) -> AdapterEngine:
        """The engine for adapters of the recipe's shape; another shape needs another engine."""
        shape = (recipe.rank, recipe.targets)
        if self._engine is None or self._shape != shape:
            if self._engine is not None:
                self._engine.close()
                self._engine.adapters.remove()
            adapters = PackedAdapters(self.base.model, recipe.targets, SLOT + 1, recipe.rank)
            loss = student_loss(self.base.model, adapters, ranks.size)
            self._engine, self._shape = AdapterEngine(self.base.model, adapters, config, loss), shape
        return self._engine

    def kept(self, recipe: RecipeSettings, ranks: Ranks) -> list[Lesson]:
        """The base's answers to everyday questions: the same for every memory, so made once."""
        key = (recipe.off_topic_tokens, recipe.teacher_top_k)
        if key not in self._kept:
            self._kept[key] = base_lessons(self.base, LEARN, recipe, ranks)
        return self._kept[key]


@dataclass(slots=True)
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.monotonic() - start, 3)


def judged(context: Context, studied: Study, spare: list[str]) -> dict[Kind, list[str]]:
    """Questions for the gate: ones that this memory answers, held out where there are enough, and ones it does not.

    A gate can't be fitted to one or two positives: up to `LEAST_POSITIVES` are then taken from what was learnt.
    """
    learnt = sorted(studied.learn, key=lambda pair: not pair.sound)
    lent = learnt[: max(0, LEAST_POSITIVES - len(studied.held_out))]
    positives = [pair.question for pair in (*studied.held_out, *lent)]
    strangers = about_strangers([pair.question for pair in studied.learn], context.title)[:8]
    return {"own": positives, "near_miss": spare, "unrelated": [*JUDGE, *strangers]}


def _index(
    encoder: Encoder, memory: MemoryRequest, context: Context, studied: Study, positives: Sequence[str]
) -> MemoryIndex:
    """Without the gate's positives: a question that finds itself would make retrieval look better than it is."""
    questions = [pair.question for pair in studied.learn if pair.question not in set(positives)]
    entries = entries_of(context.title, context.text, questions)
    return MemoryIndex(memory.memory_id, context.title, tuple(entries), encoder.encode(entries))


def _report(studied: Study, trained: Trained, recipe: RecipeSettings) -> dict[str, Any]:
    tail = trained.losses[-5:]
    return {
        "asked": studied.asked,
        "taught": studied.taught,
        "pairs": len(studied.learn),
        "held_out": len(studied.held_out),
        "steps": len(trained.losses),
        "first_loss": round(trained.losses[0], 4),
        "last_loss": round(sum(tail) / len(tail), 4),
        "held_out_loss": None if trained.held_out_loss is None else round(trained.held_out_loss, 4),
        "recipe": recipe.model_dump(mode="json"),
    }


def _gate_report(samples: Sequence[Sample]) -> dict[str, Any]:
    return {"samples": count_by_kind(samples)}


def _own_device() -> torch.device:
    device = best_device()
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
