from __future__ import annotations

import pytest
import torch

from core.engine.decoding import Soft, hard_of, soft_of
from core.engine.kv import PrefixKv
from core.settings import RecipeSettings
from workers.distillation.trainer.student import divergence
from workers.distillation.trainer.targets import Lesson
from workers.distillation.trainer.training import Pupil, off_topic_rows, plan, schedule, steps_for

EMPTY = PrefixKv(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2))


def _lesson(length: int, token: int = 0) -> Lesson:
    return Lesson(EMPTY, (token,) * (length + 1), hard_of([token] * length))


def test_the_loss_is_zero_where_the_student_says_what_the_teacher_says() -> None:
    logits = torch.tensor([[2.0, 1.0, -30.0], [0.0, 3.0, -30.0]])
    lesson = Lesson(EMPTY, (1, 2), soft_of(logits, 2))
    assert abs(float(divergence(logits, [lesson]).sum())) < 1e-5


def test_the_loss_is_summed_over_positions_and_weighs_by_the_teacher() -> None:
    soft = Soft(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0, 1]]))
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    expected = torch.log(torch.tensor(0.5)) - torch.log(torch.tensor(0.25))
    assert torch.isclose(divergence(logits, [Lesson(EMPTY, (1,), soft)]).sum(), expected)


def test_every_pair_has_its_turn_before_any_has_a_second_one_more_than_once() -> None:
    recipe = RecipeSettings(batch_rows=4, off_topic_share=0.25)
    learn = [_lesson(3 + i % 4, i) for i in range(9)]
    keep = [_lesson(2, 100 + i) for i in range(5)]
    batches = list(plan(Pupil(learn, keep, ()), recipe, steps=3))
    seen = {lesson.feed[0] for batch in batches for lesson in batch}
    assert set(range(9)) <= seen
    assert all(sum(lesson.feed[0] >= 100 for lesson in batch) == 1 and len(batch) == 4 for batch in batches)


def test_rows_of_memories_with_as_many_pairs_are_alike_in_length_at_every_step() -> None:
    recipe = RecipeSettings(batch_rows=4, off_topic_share=0.25)
    both = [[_lesson(3 + 8 * (i % 3), i) for i in range(k, k + 9)] for k in (0, 50)]
    plans = [
        [max(len(x.feed) for x in batch) for batch in plan(Pupil(learn, (), ()), recipe, steps=6)] for learn in both
    ]
    assert sum(abs(one - other) for one, other in zip(*plans, strict=True)) <= 8


def test_the_plan_is_the_same_for_every_rank() -> None:
    recipe = RecipeSettings()
    learn = [_lesson(3 + i % 5, i) for i in range(20)]
    keep, near = ([_lesson(2, base + i) for i in range(6)] for base in (100, 200))
    first, second = (list(plan(Pupil(learn, keep, (), near), recipe, steps=7)) for _ in range(2))
    assert [[lesson.feed for lesson in batch] for batch in first] == [[x.feed for x in batch] for batch in second]


@pytest.mark.parametrize(
    ("share", "keep", "each_step"), [(0.125, 6, 1), (0.25, 6, 2), (0.5, 6, 4), (0.5, 1, 1), (0.25, 0, 0)]
)
def test_a_share_of_each_step_is_to_be_left_alone(share: float, keep: int, each_step: int) -> None:
    recipe = RecipeSettings(batch_rows=8, off_topic_share=share)
    pupil = Pupil([_lesson(3, i) for i in range(20)], [_lesson(2, 100 + i) for i in range(keep)], ())
    for batch in plan(pupil, recipe, steps=6):
        left_alone = [lesson.feed[0] for lesson in batch if lesson.feed[0] >= 100]
        assert len(batch) == 8
        assert len(left_alone) == len(set(left_alone)) == each_step


def test_every_row_to_leave_alone_comes_again_and_again() -> None:
    recipe = RecipeSettings(batch_rows=8, off_topic_share=0.25)
    keep = [_lesson(2, 100 + i) for i in range(12)]
    batches = list(plan(Pupil([_lesson(3)] * 12, keep, ()), recipe, steps=60))
    seen = [lesson.feed[0] for batch in batches for lesson in batch if lesson.feed[0] >= 100]
    assert {name: seen.count(name) >= 3 for name in seen} == {lesson.feed[0]: True for lesson in keep}


def test_rows_to_leave_alone_never_take_the_whole_batch() -> None:
    assert off_topic_rows(RecipeSettings(batch_rows=8, off_topic_share=0.25)) == 2
    assert off_topic_rows(RecipeSettings(batch_rows=4, off_topic_share=1.0)) == 3


def test_a_long_context_takes_more_steps_up_to_a_limit() -> None:
    recipe = RecipeSettings(steps=30, passes=4, max_steps=100, batch_rows=8, off_topic_share=0.25)
    assert [steps_for(pairs, recipe) for pairs in (10, 60, 1000)] == [30, 40, 100]


def test_the_rate_warms_up_and_decays() -> None:
    rates = [schedule(step, 40) for step in range(40)]
    assert rates[0] < rates[3] < max(rates)
    assert rates[-1] == min(rates[6:])
