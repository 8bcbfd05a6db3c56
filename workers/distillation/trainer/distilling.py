"""From contexts to adapters with their gates and indexes: the phases of one run, in order.

Each context is studied by itself; then all memories of the run train and are judged together. What goes wrong with one
ends that one.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.adapters.peft_format import load_adapter
from core.base_model.loading import load_base
from core.base_model.prepare import prepare
from core.errors import AdapterInvalid, LatentBankError
from core.gate.samples import Sample, count_by_kind
from core.retrieval.encoder import Encoder
from core.retrieval.entries import entries_of
from core.retrieval.index import MemoryIndex
from core.retrieval.index import rounded as rounded_vectors
from core.retrieval.topics import without_topic
from core.settings import RecipeSettings
from workers.distillation.trainer.calibrating import Judged, judged_questions, samples_of
from workers.distillation.trainer.contexts import Context, read_context
from workers.distillation.trainer.engine import read_config, zero_stage
from workers.distillation.trainer.exporting import export, rounded
from workers.distillation.trainer.pairs import Study
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import (
    LEFT_OUT,
    Cancelled,
    MemoryRequest,
    Outcome,
    Reporter,
    RunRequest,
    failure,
)
from workers.distillation.trainer.self_study import study
from workers.distillation.trainer.targets import lessons
from workers.distillation.trainer.training import Pupil, Trained, Weights, train
from workers.distillation.trainer.warm import Warm, own_device

STUDY_SHARE = 0.5
TRAINING_SHARE = 0.42
"""Parts of a memory's way, for its progress; the rest is calibration."""
STUDY_PASSES = (0.4, 0.7)
"""Parts of self-study that are done after its passes."""

LeftOut = Callable[[], Collection[str]]
"""Asked between steps which memories the run is to go on without; raises to stop the run."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A memory that is ready to be trained."""

    memory: MemoryRequest
    context: Context
    studied: Study
    pupil: Pupil
    fresh: bool
    clock: Clock


class MemoryLeft(Exception):
    """The run goes on without this memory."""


class Distiller:
    """Base model, encoder and engine, made once and kept warm between runs."""

    def __init__(self, ranks: Ranks, deepspeed_config: Path | None = None) -> None:
        self.config = read_config(deepspeed_config, ranks.size)
        self.ranks = ranks.in_lockstep() if zero_stage(self.config) == 3 else ranks
        self._warm: Warm | None = None

    def warm(self, base_reference: str, base_dir: Path, encoder: str) -> Warm:
        """Base and encoder, loaded if others or none are."""
        key = (base_reference, str(base_dir), encoder)
        if self._warm is None or self._warm.key != key:
            self._warm = None
            description = prepare(base_reference, base_dir)
            base = load_base(description, own_device(), partitioned=zero_stage(self.config) == 3)
            self._warm = Warm(key, base, Encoder(encoder))
        return self._warm

    def distil(self, request: RunRequest, reporter: Reporter, left_out: LeftOut) -> list[Outcome]:
        """All phases of all memories, each outcome told as soon as it is known; rank 0 writes the files."""
        shared = Clock()
        with shared.timed("loading"):
            warm = self.warm(request.base_reference, request.base_dir, request.encoder)
            warm.engine(request.recipe, self.config, self.ranks, len(request.memories))
        run = _Run(self, warm, request, reporter, left_out, shared)
        return run.finish(run.prepare())


@dataclass(frozen=True, slots=True)
class _Run:
    """One run's work, on every rank."""

    at: Distiller
    warm: Warm
    request: RunRequest
    reporter: Reporter
    left_out: LeftOut
    shared: Clock
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def prepare(self) -> list[Prepared]:
        """Self-study and targets, memory by memory."""
        prepared = []
        for memory in self.request.memories:
            with self._boundary(memory):
                prepared.append(self._prepare(memory))
        return prepared

    def finish(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """Training and judging, all memories together; then each is exported."""
        trained = self._train(prepared)
        out = self.left_out()
        left = [i for i, one in enumerate(prepared) if one.memory.memory_id not in out]
        for one in prepared:
            if one.memory.memory_id in out:
                self._end(Outcome(one.memory.memory_id, str(one.memory.directory), error=dict(LEFT_OUT)))
        weights = {}
        for i in left:
            with self._boundary(prepared[i].memory):
                weights[i] = _whole(rounded(trained[i].weights))
        judged = {}
        for i in weights:
            with self._boundary(prepared[i].memory):
                one = prepared[i]
                questions = judged_questions(one.context, one.studied, _of_others(prepared, i))
                judged[i] = Judged(self._index(one, questions["own"]), questions)
        left = list(judged)
        with self.shared.timed("calibrating"):
            samples = self._judge(prepared, weights, judged)
        for i in left:
            with self._boundary(prepared[i].memory):
                self._export(prepared[i], trained[i], weights[i], samples[i], judged[i].index)
        return [self.outcomes[memory.memory_id] for memory in self.request.memories]

    def _prepare(self, memory: MemoryRequest) -> Prepared:
        clock, recipe, warm, ranks = Clock(), self.request.recipe, self.warm, self.at.ranks
        self._tell(memory, "self_study", 0.0, "reading the context")
        context = read_context(memory.context_path, memory.title, recipe.parser)
        shares = iter(STUDY_PASSES)

        def passed(message: str) -> None:
            if memory.memory_id in self.left_out():
                raise MemoryLeft
            self._tell(memory, "self_study", STUDY_SHARE * next(shares), message)

        with clock.timed("self_study"):
            studied = study(warm.base, warm.rewording, context, recipe, ranks, passed)
        self._tell(memory, "self_study", STUDY_SHARE * 0.8, f"{len(studied.learn)} pairs to learn")
        with clock.timed("targets"):
            first = warm.lessons_from(recipe, self.at.config)
            pupil = Pupil(
                lessons(warm.base, studied.learn, first),
                warm.kept(recipe, ranks, first),
                lessons(warm.base, studied.held_out, first),
                self._start(memory),
            )
        self._tell(memory, "self_study", STUDY_SHARE, "ready to be trained")
        return Prepared(memory, context, studied, pupil, pupil.start is None, clock)

    def _start(self, memory: MemoryRequest) -> dict[str, Any] | None:
        """The earlier version's weights, if there are any that fit this recipe."""
        if memory.start_from is None:
            return None
        engine = self.warm.engine(self.request.recipe, self.at.config, self.at.ranks, len(self.request.memories))
        adapter = load_adapter(memory.start_from)
        weights = dict(adapter.weights)
        if adapter.scale != self.request.recipe.alpha / self.request.recipe.rank or not engine.takes(weights):
            self._tell(memory, "self_study", 0.0, "the earlier adapter has another shape; starting afresh")
            return None
        return weights

    def _train(self, prepared: Sequence[Prepared]) -> list[Trained]:
        engine = self.warm.engine(self.request.recipe, self.at.config, self.at.ranks, len(prepared))

        def left_out() -> set[int]:
            out = self.left_out()
            return {i for i, one in enumerate(prepared) if one.memory.memory_id in out}

        def progress(number: int, step: int, steps: int, loss: float) -> None:
            share = STUDY_SHARE + TRAINING_SHARE * step / steps
            message = f"step {step} of {steps}"
            self._tell(prepared[number].memory, "training", share, message, {"step": step, "loss": loss})

        for one in prepared:
            self._tell(one.memory, "training", STUDY_SHARE, "training")
        with self.shared.timed("training"):
            return train(
                engine,
                [one.pupil for one in prepared],
                self.request.recipe,
                self.at.ranks,
                left_out=left_out,
                progress=progress,
            )

    def _judge(
        self, prepared: Sequence[Prepared], weights: dict[int, Any], judged: dict[int, Judged]
    ) -> dict[int, tuple[Sample, ...]]:
        """Samples for the gate, drafted with the rounded weights; by number of the memory."""
        recipe = self.request.recipe
        adapters = self.warm.engine(recipe, self.at.config, self.at.ranks, len(prepared)).adapters
        for i, own in weights.items():
            self._tell(prepared[i].memory, "calibrating", STUDY_SHARE + TRAINING_SHARE, "calibrating the gate")
            adapters.write(i + 1, own, recipe.alpha / recipe.rank)
        asked = {i + 1: one for i, one in judged.items()}
        # Several ranks draft different questions, and could not ask together.
        check = self.left_out if self.at.ranks.size == 1 else None
        found = samples_of(self.warm, adapters, asked, self.at.ranks, check)
        for i in weights:
            adapters.clear(i + 1)
        return {i: found[i + 1] for i in weights}

    def _index(self, one: Prepared, positives: Collection[str]) -> MemoryIndex:
        """Without the gate's positives: a question that finds itself would make retrieval look better than it is; and
        without questions in other words, which may be no English.
        """
        context, learn = one.context, [pair for pair in one.studied.learn if not (pair.gap or pair.reworded)]
        asked = [pair for pair in learn if pair.question not in positives]
        entries = entries_of(context.title, context.text, [pair.question for pair in asked])
        told = [f"{pair.question} {self.warm.base.chat.decode(pair.answer)}" for pair in asked]
        bare = [without_topic(text, context.topic) for text in (*told, *(fact.text for fact in context.facts))]
        vectors = rounded_vectors(self.warm.encoder.encode([*entries, *bare]))
        known, statements = vectors[: len(entries)], vectors[len(entries) :]
        return MemoryIndex(one.memory.memory_id, context.title, tuple(entries), known, context.topic, statements)

    def _export(
        self, one: Prepared, trained: Trained, weights: Any, samples: Sequence[Sample], index: MemoryIndex
    ) -> None:
        recipe, memory = self.request.recipe, one.memory
        report = _report(one, trained, recipe)
        with one.clock.timed("exporting"):
            if self.at.ranks.leads:
                export(memory.directory, self.warm.base, weights, samples, index, self.request.encoder, recipe, report)
        self._tell(memory, "calibrating", 1.0, "exported")
        count = len(self.request.memories)
        # What the memories of a run do together is shared out among them alike.
        seconds = {**{phase: round(s / count, 3) for phase, s in self.shared.seconds.items()}, **one.clock.seconds}
        gate = {"samples": count_by_kind(samples)}
        self._end(Outcome(memory.memory_id, str(memory.directory), seconds, report, gate))

    @contextmanager
    def _boundary(self, memory: MemoryRequest) -> Iterator[None]:
        """What fails within it ends this memory, not the run. `Cancelled` ends the run."""
        try:
            yield
        except MemoryLeft:
            self._end(Outcome(memory.memory_id, str(memory.directory), error=dict(LEFT_OUT)))
        except Cancelled:
            raise
        except Exception as problem:
            if not isinstance(problem, LatentBankError):
                if self.at.ranks.size > 1:
                    # Perhaps of this rank alone, and then the others are elsewhere: the run can't go on.
                    raise
                traceback.print_exception(problem)
            self._end(Outcome(memory.memory_id, str(memory.directory), error=failure(problem)))

    def _end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.memory_id] = outcome
        self.reporter.outcome(outcome)

    def _tell(
        self, memory: MemoryRequest, phase: Any, share: float, message: str, data: dict[str, Any] | None = None
    ) -> None:
        self.reporter.progress(phase, share, message, {"memory_id": memory.memory_id, **(data or {})})


@dataclass(slots=True)
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.monotonic() - start, 3)


def _whole(weights: Weights) -> Weights:
    """Raises `AdapterInvalid` where training went astray."""
    if not all(bool(tensor.isfinite().all()) for pair in weights.values() for tensor in pair):
        raise AdapterInvalid("Training did not converge: the adapter has weights that are not finite.")
    return weights


def _of_others(prepared: Sequence[Prepared], own: int) -> list[str]:
    """Held-out questions of the same tenant's other memories in the run, one of each in turn."""
    tenant = prepared[own].memory.tenant_id
    others = [one for i, one in enumerate(prepared) if i != own and one.memory.tenant_id == tenant]
    longest = max((len(one.studied.held_out) for one in others), default=0)
    return [one.studied.held_out[k].question for k in range(longest) for one in others if k < len(one.studied.held_out)]


def _report(one: Prepared, trained: Trained, recipe: RecipeSettings) -> dict[str, Any]:
    tail = trained.losses[-5:]
    return {
        "asked": one.studied.asked,
        "taught": one.studied.taught,
        "pairs": len(one.studied.learn),
        "held_out": len(one.studied.held_out),
        "coverage": one.studied.coverage,
        "questions_by_sentence": list(one.studied.by_fact),
        "steps": len(trained.losses),
        "started": "afresh" if one.fresh else "from the earlier version",
        "first_loss": round(trained.losses[0], 4),
        "last_loss": round(sum(tail) / len(tail), 4),
        "losses": [round(loss, 3) for loss in trained.losses],
        "held_out_loss": None if trained.held_out_loss is None else round(trained.held_out_loss, 4),
        "recipe": recipe.model_dump(mode="json"),
    }
