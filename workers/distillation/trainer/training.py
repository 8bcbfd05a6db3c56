"""Training: adapters learn, on answer tokens alone, to say without the context what the teacher says with it.

Several memories train in one run. A step has as many rows of each that still learns; their gradients never meet, and
each has its own optimiser state, learning rate and end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from core.settings import RecipeSettings
from workers.distillation.trainer.engine import AdapterEngine
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.student import Batch
from workers.distillation.trainer.targets import Lesson

WARM_UP = 10
LEAST_RATE = 0.05
CHECK_EVERY = 16
GOLDEN = 0.6180339887498949

Weights = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Pupil:
    """One memory in training: `keep` holds it to the base while it learns `learn`.

    `start` are the weights of the context's earlier version, if there is one; fewer steps are then enough.
    """

    learn: Sequence[Lesson]
    keep: Sequence[Lesson]
    held_out: Sequence[Lesson]
    start: Mapping[str, tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """Losses in nats per answer token: of each step, and on the held-out pairs at the end (`None` without any).

    `weights` is layer name to `(a, b)`; of a memory that was left out, as it then was.
    """

    losses: tuple[float, ...]
    held_out_loss: float | None
    weights: Weights


@dataclass(slots=True)
class _Course:
    """How far a pupil is."""

    pupil: Pupil
    steps: int
    batches: Iterator[list[Lesson]]
    losses: list[float] = field(default_factory=list)
    best: float = float("inf")
    weights: Weights | None = None
    """Those of the best check, where checks are made."""
    stale: int = 0
    done: bool = False


Progress = Callable[[int, int, int, float], None]
"""Told the number of a pupil, its step, its steps and its loss."""


def train(
    engine: AdapterEngine,
    pupils: Sequence[Pupil],
    recipe: RecipeSettings,
    ranks: Ranks,
    *,
    left_out: Callable[[], Collection[int]],
    progress: Progress,
) -> list[Trained]:
    """Trains pupil i as adapter i. `left_out` is asked before every step who is not to go on, and may raise to stop."""
    for number, pupil in enumerate(pupils):
        engine.reset(number, recipe.seed, pupil.start)
    courses = [_course(pupil, recipe) for pupil in pupils]
    for step in range(max((course.steps for course in courses), default=0)):
        out = left_out()
        active = [i for i, course in enumerate(courses) if i not in out and not course.done and step < course.steps]
        if not active:
            break
        rows = [next(courses[i].batches) for i in active]
        base_rates = [recipe.learning_rate * schedule(step, courses[i].steps) for i in active]
        rates = {i: (rate, rate * recipe.b_rate) for i, rate in zip(active, base_rates, strict=True)}
        losses = engine.step(_batch(rows, active, ranks), rates)
        for at, number in enumerate(active):
            course = courses[number]
            course.losses.append(sum(ranks.from_all(losses[at])) / ranks.size)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == course.steps:
                progress(number, step + 1, course.steps, course.losses[-1])
                _consider(engine, number, course, recipe, ranks)
    return [_trained(engine, number, course, recipe, ranks) for number, course in enumerate(courses)]


def held_out_loss(
    engine: AdapterEngine, lessons: Sequence[Lesson], recipe: RecipeSettings, ranks: Ranks, number: int
) -> float:
    """Mean loss per target over `lessons`, computed alike on every rank."""
    total = 0.0
    for start in range(0, len(lessons), recipe.batch_rows):
        part = tuple(lessons[start : start + recipe.batch_rows])
        total += engine.evaluate(Batch(part, (number,), (ranks.size,)))[0]
    return total / sum(len(lesson.soft) for lesson in lessons)


def steps_for(pairs: int, recipe: RecipeSettings, *, least: int | None = None) -> int:
    """Steps that give each pair `passes` turns, within the recipe's limits."""
    wanted = -(-int(pairs * recipe.passes) // (recipe.batch_rows - off_topic_rows(recipe)))
    return min(recipe.max_steps, max(recipe.steps if least is None else least, wanted))


def off_topic_rows(recipe: RecipeSettings) -> int:
    return min(recipe.batch_rows - 1, round(recipe.batch_rows * recipe.off_topic_share))


def schedule(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay; 0 to 1."""
    return min(1.0, (step + 1) / WARM_UP) * max(LEAST_RATE, 1 - step / steps)


def plan(pupil: Pupil, recipe: RecipeSettings, steps: int) -> Iterator[list[Lesson]]:
    """The rows of each step, the same on every rank; rows of like length share a batch.

    Which lengths come at a step is the same for all memories, or short rows would wait for another memory's long ones.
    """
    chance = random.Random(recipe.seed)  # nosec B311
    kept = min(off_topic_rows(recipe), len(pupil.keep))
    size = recipe.batch_rows - kept
    epoch: list[list[Lesson]] = []
    for step in range(steps):
        if not epoch:
            epoch = _epoch(pupil.learn, size, chance)
        # Low-discrepancy turns through the lengths; the epoch's batches are sorted by them.
        learn = epoch.pop(int(step * GOLDEN % 1.0 * len(epoch)))
        yield [*learn, *chance.sample(list(pupil.keep), kept)]


def _epoch(lessons: Sequence[Lesson], size: int, chance: random.Random) -> list[list[Lesson]]:
    order = sorted(lessons, key=lambda lesson: len(lesson.feed) + chance.uniform(0, 6))
    missing = -len(order) % size
    if missing:
        order = sorted([*order, *chance.choices(order, k=missing)], key=lambda lesson: len(lesson.feed))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _course(pupil: Pupil, recipe: RecipeSettings) -> _Course:
    least = recipe.steps if pupil.start is None else recipe.update_steps
    passes = recipe.passes if pupil.start is None else recipe.passes * recipe.update_steps / recipe.steps
    steps = steps_for(len(pupil.learn), recipe.model_copy(update={"passes": passes}), least=least)
    return _Course(pupil, steps, plan(pupil, recipe, steps))


def _consider(engine: AdapterEngine, number: int, course: _Course, recipe: RecipeSettings, ranks: Ranks) -> None:
    """Ends a course whose held-out loss no longer falls; it keeps the weights of its best check."""
    if not recipe.patience or not course.pupil.held_out:
        return
    now = held_out_loss(engine, course.pupil.held_out, recipe, ranks, number)
    if now < course.best:
        course.best, course.stale, course.weights = now, 0, engine.read(number)
    else:
        course.stale += 1
    course.done = course.stale >= recipe.patience


def _trained(engine: AdapterEngine, number: int, course: _Course, recipe: RecipeSettings, ranks: Ranks) -> Trained:
    if course.weights is not None:
        engine.reset(number, recipe.seed, course.weights)
    held_out = course.pupil.held_out
    last = held_out_loss(engine, held_out, recipe, ranks, number) if held_out else None
    return Trained(tuple(course.losses), last, engine.read(number))


def _batch(rows: Sequence[Sequence[Lesson]], adapters: Sequence[int], ranks: Ranks) -> Batch:
    """Each rank has its share of every memory's rows, and so as many of each."""
    lessons = tuple(lesson for own in rows for lesson in ranks.own(own))
    return Batch(lessons, tuple(adapters), tuple(sum(len(lesson.soft) for lesson in own) for own in rows))
