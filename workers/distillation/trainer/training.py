"""Training: the adapter learns, on answer tokens alone, to say without the context what the teacher says with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.packed import PackedAdapters
from core.engine.rows import Rows
from core.settings import RecipeSettings
from workers.distillation.trainer.engine import AdapterEngine
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.targets import Lesson

WARM_UP = 6
LEAST_RATE = 0.05
REPORT_EVERY = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's rows of one step, and how many targets the rows of all ranks have."""

    lessons: tuple[Lesson, ...]
    targets: int
    slot: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Losses in nats per answer token: of each step, and at the end on the held-out pairs (`None` without any)."""

    losses: tuple[float, ...]
    held_out_loss: float | None
    pairs: int


Progress = Callable[[int, int, float], None]


def student_loss(model: Any, adapters: PackedAdapters, ranks: int) -> Callable[[Batch], Tensor]:
    """Forward KL of the targets to the student; its mean over ranks is the mean over all targets of the step."""

    def loss(batch: Batch) -> Tensor:
        rows = Rows(
            model,
            [lesson.prefix for lesson in batch.lessons],
            # The first layers' KV may have no gradient, and is then written into the cache even in training.
            room=max(len(lesson.feed) for lesson in batch.lessons),
            adapters=adapters,
            slots=[batch.slot] * len(batch.lessons),
        )
        longest = max(len(lesson.soft) for lesson in batch.lessons)
        adapters.routing.only = batch.slot
        try:
            logits = rows.feed([lesson.feed for lesson in batch.lessons], keep=longest).float()
        finally:
            adapters.routing.only = None
        return divergence(logits, batch.lessons) * ranks / batch.targets

    return loss


def divergence(logits: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """Summed over positions: KL(target ‖ student), the target on its top tokens only, the student on all.

    `logits` is `[rows, columns, vocabulary]`; a lesson's targets belong to the last columns of its row. All positions
    are taken out at once: a slice per row would cost a gradient of the size of `logits` per row.
    """
    rows = torch.cat([torch.full((len(lesson.soft),), row) for row, lesson in enumerate(lessons)])
    columns = torch.cat([torch.arange(-len(lesson.soft), 0) for lesson in lessons])
    student = logits[rows.to(logits.device), columns.to(logits.device)]
    target = _padded([lesson.soft.log_probabilities for lesson in lessons], -torch.inf).to(student)
    tokens = _padded([lesson.soft.tokens for lesson in lessons], 0).to(student.device)
    chosen = student.gather(-1, tokens) - student.logsumexp(-1, keepdim=True)
    weight = target.exp()
    total: Tensor = (torch.special.xlogy(weight, weight) - weight * chosen).sum()
    return total


def _padded(parts: Sequence[Tensor], value: float) -> Tensor:
    """`[n_i, k_i]` tensors as one `[Σ n_i, max k_i]`."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=value) for part in parts])


def train(
    engine: AdapterEngine,
    learn: Sequence[Lesson],
    keep: Sequence[Lesson],
    held_out: Sequence[Lesson],
    recipe: RecipeSettings,
    ranks: Ranks,
    *,
    slot: int,
    check: Callable[[], None],
    progress: Progress,
) -> Trained:
    """Trains `slot` on `learn` while `keep` holds it to the base; `check` is called before every step."""
    engine.reset(slot, recipe.seed, recipe.alpha / recipe.rank)
    steps = steps_for(len(learn), recipe)
    losses: list[float] = []
    best, stale = float("inf"), 0
    for step, lessons in enumerate(plan(learn, keep, recipe, steps)):
        check()
        rate = recipe.learning_rate * schedule(step, steps)
        loss = engine.step(_batch(lessons, ranks, slot), (rate, rate * recipe.b_rate))
        losses.append(sum(ranks.from_all(loss)) / ranks.size)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            progress(step + 1, steps, losses[-1])
            if recipe.patience and held_out:
                now = held_out_loss(engine, held_out, recipe, ranks, slot)
                best, stale = (now, 0) if now < best else (best, stale + 1)
                if stale >= recipe.patience:
                    break
    last = held_out_loss(engine, held_out, recipe, ranks, slot) if held_out else None
    return Trained(tuple(losses), last, len(learn))


def held_out_loss(
    engine: AdapterEngine, lessons: Sequence[Lesson], recipe: RecipeSettings, ranks: Ranks, slot: int
) -> float:
    """Mean loss per target over `lessons`, computed alike on every rank."""
    total = 0.0
    for start in range(0, len(lessons), recipe.batch_rows):
        part = tuple(lessons[start : start + recipe.batch_rows])
        total += engine.evaluate(Batch(part, ranks.size, slot))
    return total / sum(len(lesson.soft) for lesson in lessons)


def steps_for(pairs: int, recipe: RecipeSettings) -> int:
    """Steps that give each pair `passes` turns, within the recipe's limits."""
    wanted = -(-int(pairs * recipe.passes) // (recipe.batch_rows - off_topic_rows(recipe)))
    return min(recipe.max_steps, max(recipe.steps, wanted))


def off_topic_rows(recipe: RecipeSettings) -> int:
    return min(recipe.batch_rows - 1, round(recipe.batch_rows * recipe.off_topic_share))


def schedule(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay; 0 to 1."""
    return min(1.0, (step + 1) / WARM_UP) * max(LEAST_RATE, 1 - step / steps)


def plan(learn: Sequence[Lesson], keep: Sequence[Lesson], recipe: RecipeSettings, steps: int) -> Iterator[list[Lesson]]:
    """The rows of each step, the same on every rank; rows of like length share a batch, in random order."""
    chance = random.Random(recipe.seed)
    kept = off_topic_rows(recipe) if keep else 0
    size = recipe.batch_rows - kept
    queue: list[list[Lesson]] = []
    for _ in range(steps):
        if not queue:
            queue = _epoch(learn, size, chance)
        yield [*queue.pop(), *chance.sample(list(keep), min(kept, len(keep)))]


def _epoch(lessons: Sequence[Lesson], size: int, chance: random.Random) -> list[list[Lesson]]:
    order = sorted(lessons, key=lambda lesson: len(lesson.feed) + chance.uniform(0, 6))
    missing = -len(order) % size
    order += chance.choices(order, k=missing) if missing else []
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    chance.shuffle(batches)
    return batches


def _batch(lessons: Sequence[Lesson], ranks: Ranks, slot: int) -> Batch:
    return Batch(tuple(ranks.own(lessons)), sum(len(lesson.soft) for lesson in lessons), slot)
