from __future__ import annotations

import pytest

from workers.distillation.trainer.grammar.topic import names_in, topic_of


@pytest.mark.parametrize(
    ("title", "text", "topic"),
    [
        ("A Short History of Fenwick", "Fenwick is a town.", "Fenwick"),
        ("Welcome: Fenwick", "Fenwick is a town.", "Fenwick"),
        ("Chat with Nora Felding", "The user: I am Nora Felding.", "Nora Felding"),
        ("User Guide: Brindle K40", "Brindle K40 boils. It is a Brindle K40.", "Brindle K40"),
        ("Handbook (Sorrel Lamp)", "A Sorrel Lamp glows. Turn a Sorrel Lamp off.", "Sorrel Lamp"),
        ("Fenwick’s bridge", "Fenwick’s bridge is old.", "Fenwick’s bridge"),
        ("Restoring the Plover Ledger", "Plover is a service. Plover stores. Run `plover restore`.", "Plover"),
        ("How to bake Rye Bread", "Rye Bread is dark. Rye Bread keeps long.", "Rye Bread"),
    ],
)
def test_a_topic_is_what_the_text_calls_it_in_as_many_of_the_title_s_words(title: str, text: str, topic: str) -> None:
    assert topic_of(title, text) == topic


@pytest.mark.parametrize(
    ("title", "text", "topic"),
    [
        ("Brindle K40 Kettle: User Guide", "The Brindle K40 boils water. Fill the Brindle K40.", "the Brindle K40"),
        ("The Lantern House — notes", "The Lantern House is old. Visit the Lantern House.", "the Lantern House"),
        ("The story of The Heron", "The Heron sank. Nobody left the Heron.", "the Heron"),
        ("The Lantern House", "Lantern House is old. Visit Lantern House, or the Lantern House.", "Lantern House"),
        ("The Lantern House", "Lantern House is old.", "Lantern House"),
    ],
)
def test_a_topic_has_an_article_where_the_text_mostly_gives_it_one(title: str, text: str, topic: str) -> None:
    assert topic_of(title, text) == topic


@pytest.mark.parametrize(
    ("title", "text", "topic"),
    [
        ("Notes, vol. 2", "Some words here.", "Notes"),
        ("Kitchen rules", "Our kitchen rules are these.", "Kitchen rules"),
        ("Lentil soup | serves six", "Soak the lentils.", "Lentil soup"),
        ("Plans for Lisbon", "We go by train.", "Plans for Lisbon"),
        ("Runbook: restoring the ledger", "The ledger is restored so.", "restoring the ledger"),
        ("Chat 12", "There are 12 boats.", "Chat 12"),
        ("all that we have ever known of the old bridge and mill", "It rains.", "all that we have ever known"),
        ("", "Fenwick is a town.", ""),
        ("  Notes ", "", "Notes"),
    ],
)
def test_a_title_that_the_text_does_not_name_gives_the_part_that_it_has_most_of(
    title: str, text: str, topic: str
) -> None:
    assert topic_of(title, text) == topic


def test_a_word_is_a_name_if_the_text_never_writes_it_small() -> None:
    text = "Anna Holm's dog, Bolt, met a fox. “Rex” barked at Lorne’s BBC (K40). Fox and dog ran. The bell rang."
    assert names_in(text) == {"Anna", "Holm", "Bolt", "Rex", "Lorne", "BBC", "K40", "The"}
    assert names_in("the fox. The fox.") == set()
    assert names_in("") == set()
