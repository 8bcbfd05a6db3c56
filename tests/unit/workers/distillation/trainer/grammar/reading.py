"""Questions of a sentence, as the tests of the grammar compare them."""

from __future__ import annotations

from spacy.language import Language

from workers.distillation.trainer.grammar.asking import stated_of
from workers.distillation.trainer.grammar.phrasing import Stated

TOPIC = "Tarn Mill"


def read(parse: Language, *sentences: str, topic: str = TOPIC) -> list[Stated]:
    """What is asked of the last of `sentences`, after the others."""
    return stated_of(sentences, topic, parse)[-1]


def spans(parse: Language, *sentences: str, topic: str = TOPIC) -> dict[str, str]:
    """Of each question of the last sentence what it asks for."""
    return {stated.question: stated.span for stated in read(parse, *sentences, topic=topic)}
