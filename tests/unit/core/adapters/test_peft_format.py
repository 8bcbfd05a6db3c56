"""PEFT is the oracle: what is published here, PEFT loads unmodified, and it says the same."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import load_adapter, save_adapter
from core.base_model.loading import LoadedBase
from core.engine.kv import PrefixKv
from core.engine.rows import Rows, prefill
from core.errors import AdapterInvalid

TARGETS = ("gate_proj", "up_proj", "down_proj")
RANK = 4
ALPHA = 6.0
NEW_TOKENS = 24


@pytest.fixture
def base(loaded_tiny: LoadedBase) -> LoadedBase:
    return loaded_tiny


def _random_weights(adapters: PackedAdapters, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(RANK, layer.a.shape[2], generator=generator) * 0.2,
            torch.randn(layer.b.shape[1], RANK, generator=generator) * 0.2,
        )
        for name, layer in adapters.layers.items()
    }


def _save(directory: Path, weights: dict[str, tuple[Tensor, Tensor]], activation: Sequence[int]) -> None:
    save_adapter(
        directory,
        weights,
        rank=RANK,
        alpha=ALPHA,
        targets=TARGETS,
        base_name="tiny-llama",
        activation_tokens=activation,
        base_digest="sha256:" + "0" * 64,
    )


@torch.no_grad()
def _ours(
    base: LoadedBase, adapters: PackedAdapters, prefix: Sequence[int], activation: Sequence[int], slot: int
) -> list[int]:
    rows = Rows(base.model, prefill(base.model, [prefix]), room=64, adapters=adapters, slots=[slot])
    logits = rows.feed([activation])[:, -1]
    tokens: list[int] = []
    while len(tokens) < NEW_TOKENS:
        tokens.append(int(logits.argmax(-1)))
        logits = rows.feed([[tokens[-1]]])[:, -1]
    return tokens


@torch.no_grad()
def _of_peft(model: PeftModel, prompt: Sequence[int]) -> list[int]:
    generated = model.generate(
        input_ids=torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token) for token in generated[0, len(prompt) :]]


@pytest.mark.parametrize("seed", [1, 2])
def test_peft_gives_the_same_greedy_answer_as_the_packed_slots(base: LoadedBase, tmp_path: Path, seed: int) -> None:
    untouched = copy.deepcopy(base.model)
    asked = base.chat.ask("What is in the manual?")
    adapters = PackedAdapters(base.model, TARGETS, slots=3, rank=RANK + 2)
    _save(tmp_path, _random_weights(adapters, seed), asked.activation)

    loaded = load_adapter(tmp_path)
    adapters.write(2, loaded.weights, loaded.scale)
    ours = _ours(base, adapters, asked.prefix, asked.activation, slot=2)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        oracle = PeftModel.from_pretrained(untouched, tmp_path)
    assert not [str(warning.message) for warning in said if "key" in str(warning.message)]
    assert oracle.peft_config["default"].alora_invocation_tokens == list(asked.activation)
    assert ours == _of_peft(oracle, [*asked.prefix, *asked.activation])
    assert ours != _ours(base, adapters, asked.prefix, asked.activation, slot=0)


@torch.no_grad()
def test_a_mix_of_slots_is_what_peft_gives_for_the_weighted_sum(base: LoadedBase, tmp_path: Path) -> None:
    untouched = copy.deepcopy(base.model)
    adapters = PackedAdapters(base.model, TARGETS, slots=4, rank=RANK + 2)
    for slot, name in ((1, "one"), (3, "two")):
        _save(tmp_path / name, _random_weights(adapters, slot), (1,))
        loaded = load_adapter(tmp_path / name)
        adapters.write(slot, loaded.weights, loaded.scale)
        # PEFT activates an aLoRA from its tokens on, which its weighted sum knows nothing of: compare plain LoRAs.
        config = tmp_path / name / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"alora_invocation_tokens": None}))
    oracle = PeftModel.from_pretrained(untouched, tmp_path / "one", adapter_name="one")
    oracle.load_adapter(tmp_path / "two", adapter_name="two")
    oracle.add_weighted_adapter(["one", "two"], [1.0, 0.7], "sum", combination_type="cat")
    oracle.set_adapter("sum")
    tokens = list(range(40, 52))
    rows = Rows(base.model, [PrefixKv.empty(base.model)], room=12, adapters=adapters, mixes=[{1: 1.0, 3: 0.7}])
    expected = oracle(input_ids=torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(rows.feed([tokens], keep=len(tokens))[0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base.model(torch.tensor([tokens])).logits[0], expected, atol=1e-2)


def test_an_adapter_survives_the_disk_bit_by_bit(base: LoadedBase, tmp_path: Path) -> None:
    weights = _random_weights(PackedAdapters(base.model, TARGETS, slots=2, rank=RANK), seed=3)
    _save(tmp_path, weights, (1, 2, 3))
    loaded = load_adapter(tmp_path)
    assert (loaded.rank, loaded.scale, loaded.activation_tokens) == (RANK, ALPHA / RANK, (1, 2, 3))
    assert set(loaded.targets) == set(TARGETS)
    assert loaded.weights.keys() == weights.keys()
    for name, (a, b) in weights.items():
        assert torch.equal(loaded.weights[name][0], a)
        assert torch.equal(loaded.weights[name][1], b)
    assert loaded.nbytes == sum(a.nbytes + b.nbytes for a, b in weights.values())


def test_the_same_adapter_is_saved_to_the_same_bytes(base: LoadedBase, tmp_path: Path) -> None:
    weights = _random_weights(PackedAdapters(base.model, TARGETS, slots=2, rank=RANK), seed=3)
    for name in ("one", "two"):
        _save(tmp_path / name, weights, (1, 2))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"bias": "all"},
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"up_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"alora_invocation_tokens": None},
        {"alora_invocation_tokens": []},
        {"target_modules": "all-linear"},
        {"r": 0},
        {"lora_alpha": "many"},
        {"lora_alpha": float("nan")},
    ],
)
def test_a_configuration_that_the_slots_can_not_follow_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    _save(tmp_path, {"model.layers.0.mlp.up_proj": (torch.ones(RANK, 3), torch.ones(5, RANK))}, (1,))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterInvalid):
        load_adapter(tmp_path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, {"model.layers.0.mlp.up_proj": (torch.ones(RANK, 3), torch.ones(5, RANK))}, (1,))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(AdapterInvalid):
        load_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterInvalid):
        load_adapter(tmp_path)
