from __future__ import annotations

import pytest
from spacy.language import Language

from workers.distillation.trainer.grammar.things import Thing, things_of


def test_names_and_nouns_with_an_article_are_things(parse: Language) -> None:
    assert things_of(["Peter Jones rang the bell in 1702."], parse) == [
        Thing("Peter Jones", "person", 0, named=True),
        Thing("the bell", "thing", 0, named=False),
    ]
    assert things_of(["The mayor's dog sleeps in Lisbon."], parse) == [
        Thing("the mayor's dog", "thing", 0, named=False),
        Thing("Lisbon", "thing", 0, named=True),
    ]


@pytest.mark.parametrize("sentence", ["A bell is loud.", "This bell is loud.", "The bell is loud."])
def test_a_noun_is_named_with_the_definite_article(sentence: str, parse: Language) -> None:
    assert [thing.text for thing in things_of([sentence], parse)] == ["the bell"]


def test_each_thing_is_there_once_with_the_first_sentence_that_has_it(parse: Language) -> None:
    sentences = ["It rains.", "A bell is loud.", "Peter Jones rang the bell and the organ.", "Peter Jones is old."]
    assert [(thing.text, thing.fact) for thing in things_of(sentences, parse)] == [
        ("the bell", 1),
        ("Peter Jones", 2),
        ("the organ", 2),
    ]


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
