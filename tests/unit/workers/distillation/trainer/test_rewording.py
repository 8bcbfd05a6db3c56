from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from workers.distillation.trainer.contrasts import contrast
from workers.distillation.trainer.rewording import Rewording, topic_words

WORDS = {
    "opens": (1.0, 0.0, 0.1),
    "closes": (1.0, 0.05, 0.1),
    "unlocks": (1.0, 0.1, 0.0),
    "founded": (0.0, 1.0, 0.1),
    "established": (0.0, 1.0, 0.0),
    "violin": (-1.0, -1.0, -1.0),
}


class _Model:
    """Embeddings of `WORDS`."""

    def get_input_embeddings(self) -> nn.Embedding:
        return nn.Embedding.from_pretrained(torch.tensor(list(WORDS.values())))


class _Tokenizer:
    def __len__(self) -> int:
        return len(WORDS)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"Ġ{list(WORDS)[i]}" for i in ids]


@pytest.fixture
def rewording() -> Rewording:
    return Rewording(_Model(), _Tokenizer())


@pytest.mark.parametrize(
    ("one", "other"),
    [("open", "close"), ("north", "south"), ("eldest", "youngest"), ("sister", "brother"), ("minimum", "maximum"),
     ("summer", "winter"), ("red", "black"), ("opens", "closed")],
)  # fmt: skip
def test_opposites_and_siblings_are_contrasts(one: str, other: str) -> None:
    assert contrast(one, other)
    assert contrast(other, one)


@pytest.mark.parametrize(
    ("one", "other"), [("founded", "established"), ("smell", "scent"), ("red", "sister"), ("red", "red")]
)
def test_words_of_no_kind_or_of_two_are_none(one: str, other: str) -> None:
    assert not contrast(one, other)


def test_a_word_is_exchanged_for_one_used_alike_that_is_no_opposite(rewording: Rewording) -> None:
    assert rewording.alike("opens") == ["unlocks"]
    assert rewording.reworded("Who founded it?", (), (), random.Random(0)) == "Who established it?"


def test_what_the_text_calls_otherwise_never_comes_in_and_the_topic_stays(rewording: Rewording) -> None:
    assert rewording.reworded("Who founded it?", (), ("establish",), random.Random(0)) is None
    assert rewording.reworded("Who founded it?", topic_words("founded"), (), random.Random(0)) is None


def test_a_question_without_such_words_has_no_other_form(rewording: Rewording) -> None:
    assert rewording.reworded("Who is Anna Holm?", (), (), random.Random(0)) is None
    assert rewording.alike("unknown") == []
