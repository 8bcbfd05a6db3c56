"""The student's loss on one step: rows of several memories in one forward pass, each with its own adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.packed import PackedAdapters
from core.engine.partial import only_layers
from core.engine.rows import Rows
from workers.distillation.trainer.targets import Lesson


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's rows of one step.

    `lessons` are as many consecutive rows for each of `adapters`, the numbers of adapters in training; `targets[i]` is
    how many targets the rows of all ranks have for `adapters[i]`.
    """

    lessons: tuple[Lesson, ...]
    adapters: tuple[int, ...]
    targets: tuple[int, ...]


Loss = Callable[[Batch], Tensor]


def student_loss(model: Any, adapters: PackedAdapters, ranks: int, scale: float, first_layer: int = 0) -> Loss:
    """Forward KL of the targets to the student, one value per adapter of the batch, `[adapters]`.

    Its mean over ranks is the mean over all targets of that adapter's rows in the step. `scale` is alpha over rank.
    Lessons start before `first_layer`.
    """

    def loss(batch: Batch) -> Tensor:
        lessons = batch.lessons
        rows = Rows(
            model,
            [lesson.prefix for lesson in lessons],
            # The first layers' KV may have no gradient, and is then written into the cache even in training.
            room=max(len(lesson.feed) for lesson in lessons),
        )
        feeds = [lesson.feed for lesson in lessons]
        with adapters.training(batch.adapters, scale):
            if first_layer == 0:
                logits = rows.feed(feeds, keep=max(len(lesson.soft) for lesson in lessons))
                student = _at_targets(logits, lessons)
            else:
                hidden = [lesson.hidden for lesson in lessons if lesson.hidden is not None]
                with only_layers(model, first_layer):
                    states = rows.feed_decoder(feeds, hidden)
                student = model.get_output_embeddings()(_at_targets(states, lessons))
        each = divergence(student.float(), lessons) * _weights(lessons).to(student.device)
        count = len(batch.adapters)
        owner = torch.arange(count).repeat_interleave(len(lessons) // count)
        lengths = torch.tensor([len(lesson.soft) for lesson in lessons])
        sums: Tensor = each.new_zeros(count).index_add(0, owner.repeat_interleave(lengths).to(each.device), each)
        return sums * ranks / torch.tensor(batch.targets).to(sums)

    return loss


def divergence(student: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """KL(target ‖ student) of each position, `[positions]`; the target on its top tokens only, the student on all.

    `student` is `[positions, vocabulary]`: logits at the lessons' targets, one after the other.
    """
    target = _padded([lesson.soft.log_probabilities for lesson in lessons], -torch.inf).to(student)
    tokens = _padded([lesson.soft.tokens for lesson in lessons], 0).to(student.device)
    chosen = student.gather(-1, tokens) - student.logsumexp(-1, keepdim=True)
    weight = target.exp()
    total: Tensor = (torch.special.xlogy(weight, weight) - weight * chosen).sum(-1)
    return total


def _weights(lessons: Sequence[Lesson]) -> Tensor:
    """`[positions]`."""
    return torch.tensor([weight for lesson in lessons for weight in lesson.weights or [1.0] * len(lesson.soft)])


def _at_targets(columns: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """`[rows, columns, n]` to `[positions, n]`; a lesson's targets belong to the last columns of its row.

    All positions are taken out at once: a slice per row would cost a gradient of the size of `columns` per row.
    """
    rows = torch.cat([torch.full((len(lesson.soft),), row) for row, lesson in enumerate(lessons)])
    at = torch.cat([torch.arange(-len(lesson.soft), 0) for lesson in lessons])
    return columns[rows.to(columns.device), at.to(columns.device)]


def _padded(parts: Sequence[Tensor], value: float) -> Tensor:
    """`[n_i, k_i]` tensors as one `[Σ n_i, max k_i]`."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=value) for part in parts])
