from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from core.base_model.loading import LoadedBase
from core.settings import RecipeSettings
from workers.distillation.trainer.base_asking import ask
from workers.distillation.trainer.contexts import text_context
from workers.distillation.trainer.ranks import Ranks


class _Idle:
    """One of two ranks, for whom the only span leaves nothing."""

    def __init__(self) -> None:
        self.gave: list[Any] = []

    def share(self, items: Sequence[Any]) -> list[Any]:
        assert len(items) == 1
        return []

    def collect(self, mine: Sequence[Any]) -> list[Any]:
        self.gave = list(mine)
        return [["Who sold the mill?"]]


def test_a_rank_without_a_span_of_its_own_has_the_questions_of_the_others(loaded_tiny: LoadedBase) -> None:
    context = text_context("Mill", "Anna Holm sold it.")
    ranks = _Idle()
    recipe = RecipeSettings(spans_per_fact=1)
    (asked,) = ask(loaded_tiny, context, {0}, recipe, cast(Ranks, ranks))
    assert (asked.question, asked.fact, ranks.gave) == ("Who sold the mill?", 0, [])
