"""What a sentence says, clause by clause: subjects that stand alone, verbs, and what belongs to them."""

from __future__ import annotations

import pytest
from spacy.language import Language

from workers.distillation.trainer.grammar.clauses import Clause, Mentions, clauses_of

TOPIC = "Tarn Mill"


def read(parse: Language, *sentences: str, topic: str = TOPIC) -> list[Clause]:
    """The clauses of the last of `sentences`, after the others."""
    mentions = Mentions(topic)
    return [clauses_of(document, mentions) for document in parse.pipe(sentences)][-1]


def parts(clause: Clause) -> list[str | None]:
    """Subject, verbs, and what belongs to them, as they stand in the sentence."""
    return [
        clause.subject,
        " ".join(verb.text for verb in clause.verbs),
        *(element.text for element in clause.elements),
    ]


@pytest.mark.parametrize(
    ("sentence", "clauses"),
    [
        ("The mill was built by Anna Holm in 1871.", [["The mill", "was built", "by Anna Holm", "in 1871"]]),
        ("Anna Holm has sold the mill to a friend.", [["Anna Holm", "has sold", "the mill", "to a friend"]]),
        ("The workers must wear helmets.", [["The workers", "must wear", "helmets"]]),
        ("The roof is red.", [["The roof", "is", "red"]]),
        ("The wheel turns slowly.", [["The wheel", "turns", "slowly"]]),
        ("The pond is cleaned every Friday.", [["The pond", "is cleaned", "every Friday"]]),
        ("The miller said that the river had risen.", [
            ["The miller", "said", "that the river had risen"],
            ["the river", "had risen"],
        ]),
    ],
)  # fmt: skip
def test_a_clause_is_a_subject_with_its_verbs_and_what_belongs_to_them(
    sentence: str, clauses: list[list[str]], parse: Language
) -> None:
    assert [parts(clause) for clause in read(parse, sentence)] == clauses


def test_each_element_knows_its_role_its_preposition_and_whether_it_stands_before_the_subject(parse: Language) -> None:
    (clause,) = read(parse, "In 1920 a storm destroyed the roof.")
    when, what = clause.elements
    assert (when.role, when.text, when.preposition, when.head.text, when.before) == (
        "preposition",
        "in 1920",
        "in",
        "1920",
        True,
    )
    assert (what.role, what.text, what.preposition, what.head.text, what.before) == (
        "object",
        "the roof",
        "",
        "roof",
        False,
    )


@pytest.mark.parametrize(
    ("sentence", "passive", "copula", "negated"),
    [
        ("The mill was built in 1871.", True, False, False),
        ("The roof is red.", False, True, False),
        ("The mill does not grind oats.", False, False, True),
        ("The roof was not repaired in 1950.", True, False, True),
        ("Anna Holm built the mill.", False, False, False),
    ],
)
def test_a_clause_is_passive_a_copula_or_negated(
    sentence: str, passive: bool, copula: bool, negated: bool, parse: Language
) -> None:
    (clause,) = read(parse, sentence)
    assert (clause.passive, clause.copula, clause.negated) == (passive, copula, negated)


@pytest.mark.parametrize(
    ("sentence", "clauses"),
    [
        ("The wheel, which was forged in Lorne, weighs 4 tonnes.", [
            ["The wheel", "was forged", "in Lorne"],
            ["The wheel", "weighs", "4 tonnes"],
        ]),
        ("The path that leads to the quarry is 3 kilometres long.", [
            ["The path", "leads", "to the quarry"],
            ["The path", "is", "3 kilometres long"],
        ]),
        ("The guide, who lives in Lisbon, speaks four languages.", [
            ["The guide", "lives", "in Lisbon"],
            ["The guide", "speaks", "four languages"],
        ]),
        ("Odile Brandt, whose father was a cooper, painted the door.", [
            ["Odile Brandt's father", "was", "a cooper"],
            ["Odile Brandt", "painted", "the door"],
        ]),
    ],
)  # fmt: skip
def test_a_relative_clause_has_its_noun_as_subject_and_the_main_clause_goes_without_it(
    sentence: str, clauses: list[list[str]], parse: Language
) -> None:
    assert [parts(clause) for clause in read(parse, sentence)] == clauses


def test_a_participle_says_what_was_done_to_its_noun(parse: Language) -> None:
    kept, _ = read(parse, "A notebook kept by an innkeeper describes the flood.")
    assert parts(kept) == ["the notebook", "kept", "by an innkeeper"]
    assert kept.passive


def test_verbs_that_share_a_subject_are_a_clause_each(parse: Language) -> None:
    assert [parts(clause) for clause in read(parse, "The choir was founded in 1922 and is led by Anna Holm.")] == [
        ["The choir", "was founded", "in 1922"],
        ["The choir", "is led", "by Anna Holm"],
    ]
    assert [parts(clause) for clause in read(parse, "The mill was built in 1871 and sold in 1890.")] == [
        ["The mill", "was built", "in 1871"],
        ["The mill", "was sold", "in 1890"],
    ]


@pytest.mark.parametrize(
    ("sentence", "clauses"),
    [
        ("Bake the bread at 190 degrees for 55 minutes.", [
            [None, "Bake", "the bread", "at 190 degrees", "for 55 minutes"],
        ]),
        ("Stir the batter for 3 minutes and add the eggs.", [
            [None, "Stir", "the batter", "for 3 minutes"],
            [None, "add", "the eggs"],
        ]),
    ],
)  # fmt: skip
def test_an_imperative_has_no_subject(sentence: str, clauses: list[list[str | None]], parse: Language) -> None:
    assert [parts(clause) for clause in read(parse, sentence)] == clauses


def test_a_state_and_what_it_is_about_are_two_things(parse: Language) -> None:
    (clause,) = read(parse, "Nora Felding is allergic to walnuts.")
    assert [(element.role, element.text) for element in clause.elements] == [
        ("complement", "allergic"),
        ("preposition", "to walnuts"),
    ]


def test_a_time_that_hangs_on_another_phrase_is_a_thing_of_its_own(parse: Language) -> None:
    (clause,) = read(parse, "The clock stopped at 03:15 on 4 June 1888.")
    assert parts(clause) == ["The clock", "stopped", "at 03:15", "on 4 June 1888"]


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "Yes.",
        "Opening hours",
        "- 3 kg",
        "There is a boat in the shed.",
        "Rowing on the lake is fun.",
        "The very old and long forgotten small stone house by the river burned.",
    ],
)
def test_what_has_no_plain_subject_of_few_words_is_no_clause(sentence: str, parse: Language) -> None:
    assert read(parse, sentence) == []


@pytest.mark.parametrize(
    ("before", "sentence", "subject"),
    [
        ("The mill was built in 1871.", "It grinds rye.", "The mill"),
        ("Odile Brandt was a painter.", "She died in 1890.", "Odile Brandt"),
        ("Odile Brandt was a painter.", "Her brothers moved to Lorne.", "Odile Brandt's brothers"),
        ("The brothers moved to Lorne.", "They sold boats.", "The brothers"),
        ("The wheel is old.", "Its axle was forged in Lorne.", "The wheel's axle"),
        ("The mill stands by the river.", "In winter it is closed.", "The mill"),
    ],
)
def test_a_pronoun_is_the_latest_subject_that_it_can_stand_for(
    before: str, sentence: str, subject: str, parse: Language
) -> None:
    (clause,) = read(parse, before, sentence)
    assert clause.subject == subject


def test_a_pronoun_passes_on_what_it_stands_for(parse: Language) -> None:
    (clause,) = read(parse, "The wheel is old.", "It was forged in Lorne.", "It weighs 4 tonnes.")
    assert clause.subject == "The wheel"


def test_a_pronoun_without_a_subject_before_it_is_who_was_named_last(parse: Language) -> None:
    (clause,) = read(parse, "The picture was painted by Anna Holm.", "She died in 1890.")
    assert clause.subject == "Anna Holm"


def test_a_possessive_is_the_subjects_of_its_own_clause(parse: Language) -> None:
    (clause,) = read(parse, "Peter Jones sold his boat.")
    assert [element.text for element in clause.elements] == ["Peter Jones' boat"]


def test_what_is_denied_doubted_or_only_possible_is_no_clause(parse: Language) -> None:
    assert all(
        "cost" not in clause.verb.text for clause in read(parse, "It is not true that the bridge cost 900 crowns.")
    )
    assert all(clause.verb.text != "took" for clause in read(parse, "He denied that Anna Holm took 900 crowns."))
    assert all(
        clause.verb.text != "rises" for clause in read(parse, "If the fee rises to 20 pounds, Anna Holm leaves.")
    )
    assert read(parse, "The mill is no longer owned by Rolf Hane.") == []
    assert any(clause.verb.text == "cost" for clause in read(parse, "The report says that the bridge cost 900 crowns."))


def test_what_the_subject_does_besides_is_a_clause(parse: Language) -> None:
    clauses = read(parse, "Rolf Hane left Lorne in 1702, carrying the bell to Hask.")
    assert [(clause.subject, clause.verb.text) for clause in clauses] == [
        ("Rolf Hane", "left"),
        ("Rolf Hane", "carrying"),
    ]


def test_a_pronoun_without_a_subject_before_it_is_the_topic(parse: Language) -> None:
    (first,) = read(parse, "She plays the cello.", topic="Nora Felding")
    assert first.subject == "Nora Felding"
    (own,) = read(parse, "Its roof is red.")
    assert own.subject == "Tarn Mill's roof"
    # What was spoken of two sentences ago is forgotten.
    (late,) = read(parse, "Odile Brandt was a painter.", "The roof is red.", "She died in 1890.", topic="Nora Felding")
    assert late.subject == "Nora Felding"


def test_of_two_subjects_each_pronoun_takes_the_one_of_its_kind(parse: Language) -> None:
    both = "Anna Holm painted the door and the wheel was sold in 1890."
    assert [clause.subject for clause in read(parse, both, "She lived in Lorne.")] == ["Anna Holm"]
    assert [clause.subject for clause in read(parse, both, "It was old.")] == ["the wheel"]
