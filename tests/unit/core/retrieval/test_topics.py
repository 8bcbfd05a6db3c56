import pytest

from core.retrieval.topics import without_topic


@pytest.mark.parametrize(
    ("text", "topic", "bare"),
    [
        ("How tall is the lighthouse of Saltmere?", "Saltmere", "How tall is the lighthouse of"),
        ("What is Saltmere's oldest house?", "the town of Saltmere", "What is oldest house?"),
        ("How many games does the Copper Meeple own?", "the Copper Meeple", "How many games does the own?"),
        ("Who made it?", "Saltmere", "Who made it?"),
    ],
)
def test_the_topic_s_own_words_are_left_out(text: str, topic: str, bare: str) -> None:
    assert without_topic(text, topic) == bare


def test_a_text_that_says_nothing_else_stays_whole() -> None:
    assert without_topic("What is Saltmere?", "Saltmere") == "What is Saltmere?"
    assert without_topic("Tell me about it.", "") == "Tell me about it."
