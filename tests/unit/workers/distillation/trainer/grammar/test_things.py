from __future__ import annotations

import pytest
from spacy.language import Language

from workers.distillation.trainer.grammar.things import Thing, things_of


def test_names_and_nouns_with_an_article_are_things(parse: Language) -> None:
    assert things_of(["Peter Jones rang the bell in 1702."], parse) == [
        Thing("Peter Jones", "person", named=True),
        Thing("the bell", "thing", named=False),
    ]
    assert things_of(["The mayor's dog sleeps in Lisbon."], parse) == [
        Thing("the mayor's dog", "thing", named=False),
        Thing("Lisbon", "name", named=True),
    ]


@pytest.mark.parametrize("sentence", ["A bell is loud.", "This bell is loud.", "The bell is loud."])
def test_a_noun_is_named_with_the_definite_article(sentence: str, parse: Language) -> None:
    assert [thing.text for thing in things_of([sentence], parse)] == ["the bell"]


def test_each_thing_is_there_once_in_the_order_of_its_first_mention(parse: Language) -> None:
    sentences = ["It rains.", "A bell is loud.", "Peter Jones rang the bell and the organ.", "Peter Jones is old."]
    assert [thing.text for thing in things_of(sentences, parse)] == ["the bell", "Peter Jones", "the organ"]


def test_people_without_a_name_are_people_too_and_stretches_of_time_are_nothing(parse: Language) -> None:
    assert [thing.kind for thing in things_of(["The dentist rang the bell."], parse)] == ["person", "thing"]
    assert things_of(["The summer was dry."], parse) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Music is loud.",
        "Her father loved music.",
        "He rang it.",
        "Two bells are loud.",
        "The three bells are loud.",
        "All the children sang.",
        "Swedish is hard.",
        "The 12 metres of rope cost 40 euros.",
        "A large, very old and green sofa burned.",
        "",
    ],
)
def test_substances_numbers_crowds_and_what_is_somebody_s_are_no_things(sentence: str, parse: Language) -> None:
    assert things_of([sentence], parse) == []


def test_of_no_sentences_there_are_no_things(parse: Language) -> None:
    assert things_of([], parse) == []
