"""The training loss, held against its definition."""

from __future__ import annotations

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.decoding import hard_of, soft_of
from core.engine.kv import PrefixKv
from workers.distillation.trainer.pairs import Pair
from workers.distillation.trainer.student import Batch, divergence, student_loss
from workers.distillation.trainer.targets import Lesson, lessons

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


QUESTION = "Who rings the bell?"


def _pair(base: LoadedBase, answer: str, *weights: float, question: str = QUESTION) -> Pair:
    tokens = tuple(base.chat.encode(answer))
    return Pair(question, tokens, hard_of(tokens), 0, False, 0.0, weights=weights)


def _losses(base: LoadedBase, *pairs: Pair, adapters: int = 1, first_layer: int = 0) -> list[float]:
    """The loss of each adapter, all of them still without any effect."""
    packed = PackedAdapters(base.model, ("up_proj",), slots=1, rank=2)
    rows = lessons(base, pairs, first_layer)
    each = len(rows) // adapters
    targets = tuple(sum(len(row.soft) for row in rows[k * each : (k + 1) * each]) for k in range(adapters))
    loss = student_loss(base.model, packed, 1, 1.0, first_layer)
    return loss(Batch(tuple(rows), tuple(range(adapters)), targets)).tolist()


@torch.no_grad()
def _surprises(base: LoadedBase, pair: Pair) -> list[float]:
    """What plain `transformers` loses on each token of the answer."""
    prompt = base.chat.ask(pair.question)
    whole = torch.tensor([[*prompt.prefix, *prompt.activation, *pair.answer[:-1]]])
    logits = base.model(whole).logits[0, -len(pair.answer) :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(pair.answer), reduction="none").tolist()


@pytest.mark.parametrize("first_layer", [0, 1])
def test_targets_that_a_lesson_favours_have_so_much_more_of_its_loss(loaded_tiny: LoadedBase, first_layer: int) -> None:
    weights = (0.5, 0.5, 1.5, 1.5)
    pair = _pair(loaded_tiny, "Anna", *weights)
    surprises = _surprises(loaded_tiny, pair)
    (loss,) = _losses(loaded_tiny, pair, first_layer=first_layer)
    wanted = sum(weight * one for weight, one in zip(weights, surprises, strict=True)) / 4
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert loss != pytest.approx(sum(surprises) / 4, rel=1e-3)


@pytest.mark.parametrize("weights", [(), (1.0, 1.0, 1.0, 1.0)])
def test_a_lesson_without_weights_is_one_whose_targets_all_count_one(
    loaded_tiny: LoadedBase, weights: tuple[float, ...]
) -> None:
    pair = _pair(loaded_tiny, "Anna", *weights)
    surprises = _surprises(loaded_tiny, pair)
    assert _losses(loaded_tiny, pair) == [pytest.approx(sum(surprises) / 4, rel=1e-4)]


def test_weights_stay_with_their_own_rows_of_a_batch(loaded_tiny: LoadedBase) -> None:
    pairs = [
        _pair(loaded_tiny, "Anna", 0.0, 0.0, 0.0, 4.0),
        _pair(loaded_tiny, "no", question="Is it rung at noon, or at any other time?"),
        _pair(loaded_tiny, "six", 3.0, 0.0, 0.0, question="When?"),
        _pair(loaded_tiny, "by hand", question="How?"),
    ]
    surprises = [_surprises(loaded_tiny, pair) for pair in pairs]
    first, second = _losses(loaded_tiny, *pairs, adapters=2)
    assert first == pytest.approx((4 * surprises[0][3] + sum(surprises[1])) / 6, rel=1e-4)
    assert second == pytest.approx((3 * surprises[2][0] + sum(surprises[3])) / 10, rel=1e-4)
