from __future__ import annotations

from pathlib import Path

from core.base_model.description import BaseDescription, read_description
from core.base_model.identity import base_digest
from core.base_model.loading import LoadedBase
from tests.fixtures.tiny_llama import make_tiny_llama


def test_a_prepared_base_describes_itself(tiny_base: BaseDescription) -> None:
    assert read_description(tiny_base.path) == tiny_base
    assert tiny_base.digest.startswith("sha256:")
    assert tiny_base.context_tokens == 2048
    assert tiny_base.tokenizer_file.exists()


def test_the_activation_tokens_are_the_assistant_header(loaded_tiny: LoadedBase) -> None:
    tokenizer = loaded_tiny.chat.tokenizer
    assert tokenizer.decode(list(loaded_tiny.description.activation_tokens)) == "<|im_start|>assistant\n"
    prompt = loaded_tiny.chat.ask("Wer? Ünïcode 7")
    assert prompt.activation == loaded_tiny.description.activation_tokens
    assert tokenizer.decode(list(prompt.prefix)) == "<|im_start|>user\nWer? Ünïcode 7<|im_end|>\n"
    assert loaded_tiny.chat.decode(prompt.prefix) == "user\nWer? Ünïcode 7\n"
    assert loaded_tiny.end_tokens == {tokenizer.eos_token_id}


def test_the_same_seed_gives_the_same_identity_and_another_seed_another(tmp_path: Path) -> None:
    digests = [
        base_digest(make_tiny_llama(tmp_path / str(i), seed=seed), "template") for i, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]
