from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from core.base_model.description import BaseDescription
from core.errors import SetupError, Unavailable
from gateway.base_model import BasePreparation, open_base_model


@pytest.fixture
def description(tmp_path: Path) -> BaseDescription:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return BaseDescription("tiny", "tiny", str(tmp_path), "sha256:0", 128, (1,))


def test_tokens_are_counted_whatever_the_tokenizer_would_cut_or_fill(description: BaseDescription) -> None:
    assert open_base_model(description).count_tokens(["one two three", "four"]) == 4


def test_before_the_base_is_prepared_it_is_unavailable_and_says_why() -> None:
    preparation = BasePreparation(lambda: pytest.fail("not started"))
    with pytest.raises(Unavailable, match="is being prepared"):
        _ = preparation.base


def test_a_preparation_that_fails_says_why_and_is_tried_again(description: BaseDescription) -> None:
    failed, again = Event(), Event()

    def prepare() -> BaseDescription:
        if not failed.is_set():
            failed.set()
            raise SetupError("The package is not installed.")
        assert again.wait(5)
        return description

    preparation = BasePreparation(prepare, retry_seconds=0)
    thread = preparation.start()
    assert failed.wait(5)
    with pytest.raises(Unavailable, match=r"not installed|is being prepared"):
        _ = preparation.base
    again.set()
    thread.join(5)
    assert preparation.base.description == description


def test_a_tokenizer_that_cannot_be_read_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    preparation = BasePreparation(lambda: _stop(preparation, tmp_path), retry_seconds=0)
    preparation.start().join(5)
    with pytest.raises(Unavailable, match="can't be read"):
        _ = preparation.base


def _stop(preparation: BasePreparation, directory: Path) -> BaseDescription:
    preparation.stop()
    return BaseDescription("tiny", "tiny", str(directory), "sha256:0", 128, (1,))
