from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.adapters.packed import PackedAdapters
from core.base_model.frozen import freeze
from core.base_model.loading import LoadedBase
from core.engine import forward
from core.engine.decoder import decoder_of
from core.engine.install import install
from core.engine.kv import PrefixKv
from core.engine.partial import only_layers
from core.engine.rows import Rows

PROMPTS = [[20, 21, 22, 23], [30, 31], [40]]
NEXT = [[50], [51], [52]]
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def made(kind: Any, config: Any) -> Any:
    """A small model of that kind with random weights, as `load_base` leaves it."""
    torch.manual_seed(0)
    model = kind(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    freeze(model)
    return model


def said(model: Any, **adapted: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows = Rows(model, [PrefixKv.empty(model)] * 3, room=5, **adapted)
    with torch.no_grad():
        return rows.feed(PROMPTS), rows.feed(NEXT)


def by_transformers(monkeypatch: pytest.MonkeyPatch, model: Any, **adapted: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(forward, "decoder_of", lambda model: None)
        return said(model, **adapted)


def close(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_llama_says_what_it_says_in_transformers(loaded_tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder_of(loaded_tiny.model) is not None
    close(said(loaded_tiny.model), by_transformers(monkeypatch, loaded_tiny.model))


def test_adapters_act_on_the_rows_and_layers_that_have_them(
    loaded_tiny: LoadedBase, adapters: PackedAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"adapters": adapters, "slots": [2, 0, 3]}
    adapted, plain = said(loaded_tiny.model, **given), said(loaded_tiny.model)
    close(adapted, by_transformers(monkeypatch, loaded_tiny.model, **given))
    assert torch.equal(adapted[1][1], plain[1][1])
    assert not torch.allclose(adapted[1][0], plain[1][0], atol=1e-2)


def test_adapters_in_training_act_too(loaded_tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = PackedAdapters(loaded_tiny.model, ("up_proj", "q_proj"), slots=1, rank=2)
    for layer in adapters.layers.values():
        layer.open_for_training(3)
        for number in range(3):
            for parameter in layer.in_training(number):
                parameter.data.normal_(0.0, 0.3)
    with adapters.training([2, 0, 1], 1.5):
        found, expected = said(loaded_tiny.model), by_transformers(monkeypatch, loaded_tiny.model)
    close(found, expected)
    assert not torch.allclose(found[0], said(loaded_tiny.model)[0], atol=1e-2)


def test_projections_with_biases_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=2))
    expected = said(model)
    assert install(model, frozen=True)
    assert decoder_of(model) is not None
    close(said(model), expected)
    close(by_transformers(monkeypatch, model), expected)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Qwen3ForCausalLM, Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
        (GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES)),
        (MistralForCausalLM, MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)),
        (
            LlamaForCausalLM,
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        ),
    ],
)
def test_a_model_that_is_built_otherwise_runs_as_its_own_code_says(kind: Any, config: Any) -> None:
    model = made(kind, config)
    expected = said(model)
    install(model, frozen=True)
    assert decoder_of(model) is None
    close(said(model), expected)


def test_a_model_whose_weights_may_change_has_none() -> None:
    model = made(Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=2))
    assert install(model, frozen=False)
    assert decoder_of(model) is None


def test_weights_are_held_once_and_a_change_of_them_is_noticed(
    loaded_tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = loaded_tiny.model.model.layers[0].self_attn
    storages = {part.weight.untyped_storage().data_ptr() for part in (attention.q_proj, attention.k_proj)}
    assert len(storages) == 1
    assert attention.q_proj._forwards is None
    before = said(loaded_tiny.model)
    attention.k_proj.weight.mul_(2.0)
    after = said(loaded_tiny.model)
    assert not torch.allclose(before[0], after[0])
    close(after, by_transformers(monkeypatch, loaded_tiny.model))


def test_in_half_precision_it_is_the_model_up_to_that_precision() -> None:
    model = made(Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=2)).to(torch.bfloat16)
    expected = said(model)
    assert install(model, frozen=True)
    assert decoder_of(model) is not None
    for found, before in zip(said(model), expected, strict=True):
        assert torch.dist(found, before) < 0.03 * before.norm()


def test_a_model_that_is_split_for_training_runs_as_its_own_code_says(loaded_tiny: LoadedBase) -> None:
    with only_layers(loaded_tiny.model, 1):
        assert decoder_of(loaded_tiny.model) is None
    assert decoder_of(loaded_tiny.model) is not None
