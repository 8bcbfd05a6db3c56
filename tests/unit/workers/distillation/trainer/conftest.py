from __future__ import annotations

import pytest
from spacy.language import Language

from core.settings import RecipeSettings
from workers.distillation.trainer.grammar.parser import load_parser


@pytest.fixture(scope="session")
def parser() -> str:
    """The reference of the parser that recipes name."""
    return RecipeSettings().parser


@pytest.fixture(scope="session")
def parse(parser: str) -> Language:
    return load_parser(parser)
