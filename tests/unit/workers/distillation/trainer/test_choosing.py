"""What is learnt and what is held out."""

from __future__ import annotations

from core.engine.decoding import hard_of
from core.settings import RecipeSettings
from workers.distillation.trainer.self_study import Pair, choose


def _pair(fact: int, name: str, *, taught: bool = False, stated: bool = False, sure: float = -1.0) -> Pair:
    return Pair(name, (1, 2), hard_of([1, 2]), fact, taught, sure, stated)


def test_only_sound_pairs_of_facts_that_keep_another_are_held_out() -> None:
    pairs = [
        _pair(0, "sound a", taught=True, sure=-0.1),
        _pair(0, "sound b", stated=True, sure=-0.5),
        _pair(0, "doubtful"),
        _pair(1, "alone", taught=True),
        _pair(1, "doubtful too"),
        *(_pair(2, f"doubtful {i}") for i in range(3)),
    ]
    learn, held = choose(pairs, RecipeSettings(held_out_pairs=4), facts=3)
    assert [pair.question for pair in held] == ["sound b"]
    assert {pair.question for pair in learn} == {pair.question for pair in pairs} - {"sound b"}


def test_every_fact_is_learnt_before_any_gets_a_second_pair_and_the_surest_come_first() -> None:
    pairs = [_pair(fact, f"{fact}.{i}", taught=i < 2, sure=-float(i)) for fact in range(10) for i in range(6)]
    learn, _ = choose(pairs, RecipeSettings(pairs_per_fact=2, held_out_pairs=0), facts=10)
    assert [pair.question for pair in learn] == [f"{fact}.{i}" for i in range(2) for fact in range(10)]
