"""What is learnt and what is held out."""

from __future__ import annotations

from core.engine.decoding import hard_of
from core.settings import RecipeSettings
from workers.distillation.trainer.pairs import Pair, choose


def _pair(
    fact: int, name: str, span: str = "", *, taught: bool = False, stated: bool = False, sure: float = -1.0
) -> Pair:
    return Pair(name, (1, 2), hard_of([1, 2]), fact, taught, sure, stated, span)


def _questions(pairs: list[Pair]) -> list[str]:
    return [pair.question for pair in pairs]


def test_every_fact_is_learnt_before_any_gets_a_second_pair_and_the_surest_come_first() -> None:
    pairs = [_pair(fact, f"{fact}.{i}", taught=i < 2, sure=-float(i)) for fact in range(10) for i in range(6)]
    learn, _ = choose(pairs, RecipeSettings(pairs_per_fact=2, held_out_pairs=0), facts=10)
    assert _questions(learn) == [f"{fact}.{i}" for i in range(2) for fact in range(10)]


def test_sound_pairs_come_before_surer_ones_that_are_not() -> None:
    pairs = [
        _pair(0, "doubtful", sure=-0.1),
        _pair(0, "stated", stated=True, sure=-2.0),
        _pair(0, "taught", taught=True, sure=-0.5),
    ]
    learn, _ = choose(pairs, RecipeSettings(), facts=1)
    assert _questions(learn) == ["taught", "stated", "doubtful"]


def test_of_each_fact_every_span_is_asked_for_before_any_is_asked_for_again() -> None:
    pairs = [
        _pair(0, "when a", "1702", stated=True, sure=-0.1),
        _pair(0, "when b", "1702", stated=True, sure=-0.2),
        _pair(0, "when c", "1702", stated=True, sure=-0.3),
        _pair(0, "who a", "Karl Onden", stated=True, sure=-0.4),
        _pair(0, "who b", "Karl Onden", sure=-0.1),
        _pair(0, "where", "Lorne", sure=-0.9),
    ]
    learn, _ = choose(pairs, RecipeSettings(held_out_pairs=0), facts=1)
    assert _questions(learn) == ["when a", "who a", "where", "when b", "who b", "when c"]


def test_what_there_is_no_room_for_is_what_asks_again() -> None:
    pairs = [_pair(fact, f"{fact}.{i}", f"span {i % 3}", stated=True) for fact in range(8) for i in range(6)]
    learn, _ = choose(pairs, RecipeSettings(pairs_per_fact=3, held_out_pairs=0), facts=8)
    assert len(learn) == 24
    assert {(pair.fact, pair.span) for pair in learn} == {(pair.fact, pair.span) for pair in pairs}


def test_a_short_context_learns_up_to_sixteen_pairs_and_a_long_one_no_more_than_the_recipe_allows() -> None:
    pairs = [_pair(0, f"q{i}", f"span {i}") for i in range(30)]
    assert len(choose(pairs, RecipeSettings(pairs_per_fact=2, held_out_pairs=0), facts=1)[0]) == 16
    assert len(choose(pairs, RecipeSettings(max_pairs=7, held_out_pairs=0), facts=1)[0]) == 7


def test_held_out_pairs_ask_for_what_is_learnt_in_very_other_words_and_of_the_next_fact_in_like_words() -> None:
    learnt = [_pair(fact, f"When was bell {fact} cast?", "1702", stated=True, sure=0.0) for fact in range(4)]
    spare = [
        pair
        for fact in range(4)
        for pair in (
            _pair(fact, f"When was bell {fact} cast then?", "1702", stated=True, sure=-1.0),
            _pair(fact, f"In which year did they make number {fact}?", "1702", stated=True, sure=-2.0),
        )
    ]
    recipe = RecipeSettings(max_pairs=4, held_out_pairs=3)
    learn, held = choose([*learnt, *spare], recipe, facts=4)
    assert learn == learnt
    assert _questions(held) == [
        "In which year did they make number 0?",
        "When was bell 1 cast then?",
        "In which year did they make number 2?",
    ]


def test_each_fact_gives_one_held_out_pair_before_any_gives_a_second() -> None:
    pairs = [
        _pair(fact, f"{word} {fact}?", "span", stated=True, sure=-float(i))
        for fact in range(2)
        for i, word in enumerate(("When was bell", "When was the bell", "In which year came"))
    ]
    _, held = choose([*pairs, *(_pair(0, f"x{i}") for i in range(6))], RecipeSettings(max_pairs=2), facts=2)
    assert len(held) == 3
    assert set(_questions(held)[:2]) == {"In which year came 0?", "When was the bell 1?"}


def test_a_fact_with_more_different_wordings_does_not_keep_another_s_from_being_held_out() -> None:
    pairs = [
        _pair(0, "When was bell 0 cast?", "1702", stated=True, sure=0.0),
        _pair(1, "When was bell 1 cast?", "1702", stated=True, sure=0.0),
        _pair(0, "Tell its birthday!", "1702", stated=True, sure=-1.0),
        _pair(0, "Which age has it?", "1702", stated=True, sure=-2.0),
        _pair(1, "When was it cast, bell 1?", "1702", stated=True, sure=-1.0),
        *(_pair(1, f"doubtful {i}", "Esk", sure=-5.0) for i in range(3)),
    ]
    _, held = choose(pairs, RecipeSettings(max_pairs=2, held_out_pairs=2), facts=2)
    assert {pair.fact for pair in held} == {0, 1}


def test_a_spare_pair_that_is_not_sound_or_asks_for_what_is_not_learnt_is_not_held_out() -> None:
    pairs = [
        _pair(0, "a learnt one", "1702", stated=True, sure=0.0),
        _pair(1, "another", "1702", stated=True, sure=0.0),
        _pair(0, "sound but of another span", "Lorne", taught=True, sure=-1.0),
        _pair(1, "of the span but doubtful", "1702", sure=-2.0),
        _pair(0, "doubtful and of another span", "Esk"),
        *(_pair(1, f"doubtful {i}", "Esk") for i in range(3)),
    ]
    learn, held = choose(pairs, RecipeSettings(max_pairs=2, held_out_pairs=2), facts=2)
    assert _questions(learn) == ["a learnt one", "another"]
    assert held == []


def test_where_all_are_learnt_only_sound_pairs_of_facts_that_keep_another_are_held_out() -> None:
    pairs = [
        _pair(0, "sound a", taught=True, sure=-0.1),
        _pair(0, "sound b", stated=True, sure=-0.5),
        _pair(0, "doubtful"),
        _pair(1, "alone", taught=True),
        _pair(1, "doubtful too"),
        *(_pair(2, f"doubtful {i}") for i in range(3)),
    ]
    learn, held = choose(pairs, RecipeSettings(held_out_pairs=4), facts=3)
    assert _questions(held) == ["sound b"]
    assert set(_questions(learn)) == set(_questions(pairs)) - {"sound b"}


def test_where_all_are_learnt_facts_with_many_sound_pairs_give_theirs_first() -> None:
    pairs = [
        *(_pair(0, f"two {i}", stated=True, sure=-float(i)) for i in range(2)),
        *(_pair(1, f"three {i}", stated=True, sure=-float(i)) for i in range(3)),
    ]
    _, held = choose(pairs, RecipeSettings(held_out_pairs=1), facts=2)
    assert _questions(held) == ["three 2"]


def test_no_more_than_a_quarter_is_held_out_and_nothing_is_both_learnt_and_held_out() -> None:
    pairs = [_pair(fact, f"{fact}.{i}", "span", stated=True) for fact in range(4) for i in range(5)]
    for most in (0, 2, 10):
        for limit in (4, 8, 256):
            learn, held = choose(pairs, RecipeSettings(held_out_pairs=most, max_pairs=limit), facts=4)
            assert len(held) == min(most, 5, len(held))
            assert len(held) >= min(most, 4)
            assert not {*_questions(learn)} & {*_questions(held)}
            assert len({*_questions(learn), *_questions(held)}) == len(learn) + len(held)


def test_of_no_pairs_nothing_is_learnt() -> None:
    assert choose([], RecipeSettings(), facts=3) == ([], [])
