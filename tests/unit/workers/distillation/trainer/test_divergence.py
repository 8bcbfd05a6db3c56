"""The training loss, held against its definition."""

from __future__ import annotations

import pytest
import torch

from core.engine.decoding import hard_of, soft_of
from core.engine.kv import PrefixKv
from workers.distillation.trainer.student import divergence
from workers.distillation.trainer.targets import Lesson

_NOTHING = PrefixKv(torch.zeros(1, 1, 0, 1), torch.zeros(1, 1, 0, 1))


def test_the_loss_of_rows_of_unequal_length_is_the_sum_of_their_divergences() -> None:
    draw = torch.Generator().manual_seed(0)
    teacher = torch.randn(3, 11, generator=draw)
    lessons = [Lesson(_NOTHING, (1, 2, 3), soft_of(teacher, 11)), Lesson(_NOTHING, (4, 5), hard_of([7, 2]))]
    student = torch.randn(5, 11, generator=draw)
    wanted = torch.nn.functional.kl_div(
        student[:3].log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True
    ) + torch.nn.functional.cross_entropy(student[3:], torch.tensor([7, 2]), reduction="sum")
    assert float(divergence(student, lessons).sum()) == pytest.approx(float(wanted), rel=1e-5)


def test_a_student_that_equals_its_teacher_loses_nothing() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(1))
    lesson = Lesson(_NOTHING, (1, 2), soft_of(logits, 9))
    assert float(divergence(logits, [lesson]).sum()) == pytest.approx(0.0, abs=1e-5)
