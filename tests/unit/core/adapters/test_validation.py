from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.files import ADAPTER_FILES, BASE_DIGEST
from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import save_adapter
from core.adapters.validation import layers_of_base, validate_adapter
from core.base_model.description import BaseDescription
from core.base_model.loading import LoadedBase
from core.errors import AdapterInvalid, WrongBase

BASE = "sha256:" + "1" * 64
LAYERS = {"model.layers.0.mlp.up_proj": (3, 5), "model.layers.1.mlp.up_proj": (3, 5)}
RANK = 2
FIRST_A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
FIRST_B = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"

Tensors = dict[str, Tensor]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    save_adapter(
        tmp_path,
        {layer: (torch.ones(RANK, i), torch.ones(o, RANK)) for layer, (i, o) in LAYERS.items()},
        rank=RANK,
        alpha=4,
        targets=("up_proj",),
        base_name="tiny",
        activation_tokens=(1,),
        base_digest=BASE,
    )
    for name in ADAPTER_FILES:
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(b"{}")
    return tmp_path


def _rewrite(directory: Path, change: Callable[[Tensors], object]) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt", BASE_DIGEST: BASE})


def test_a_good_export_passes_and_tells_its_configuration(exported: Path) -> None:
    config = validate_adapter(exported, expected_layers=LAYERS, base_digest=BASE)
    assert (config.rank, config.scale, config.targets, config.activation_tokens) == (RANK, 2.0, ("up_proj",), (1,))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_weights_pass(exported: Path, kind: torch.dtype) -> None:
    _rewrite(exported, lambda tensors: tensors.update({name: t.to(kind) for name, t in tensors.items()}))
    validate_adapter(exported, expected_layers=LAYERS, base_digest=BASE)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(exported: Path, kind: torch.dtype, value: float) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors.update({name: t.to(kind) for name, t in tensors.items()})
        tensors[FIRST_B][1, 1] = value

    _rewrite(exported, spoil)
    with pytest.raises(AdapterInvalid, match="not finite"):
        validate_adapter(exported, expected_layers=LAYERS, base_digest=BASE)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.clear(), id="no weights"),
        pytest.param(lambda t: t.update({name: torch.zeros(0) for name in t}), id="empty weights"),
        pytest.param(lambda t: t.update({FIRST_A: torch.zeros(RANK, 0)}), id="a side of no width"),
        pytest.param(lambda t: t.update({name: torch.zeros_like(v) for name, v in t.items()}), id="all zero"),
        pytest.param(lambda t: [v.zero_() for name, v in t.items() if "lora_B" in name], id="every B zero"),
        pytest.param(lambda t: t.pop(FIRST_A), id="a missing side"),
        pytest.param(lambda t: t.update({"lm_head.weight": torch.ones(1)}), id="a foreign weight"),
        pytest.param(lambda t: t.update({FIRST_A: torch.ones(RANK + 1, 3)}), id="another rank"),
        pytest.param(lambda t: t.update({FIRST_A: torch.ones(RANK)}), id="a vector"),
        pytest.param(lambda t: t.update({FIRST_A: torch.ones(RANK, 3, dtype=torch.int32)}), id="integers"),
        pytest.param(lambda t: t.update({FIRST_A: torch.ones(RANK, 3, dtype=torch.float64)}), id="doubles"),
    ],
)
def test_an_export_that_went_wrong_is_refused(exported: Path, change: Callable[[Tensors], object]) -> None:
    _rewrite(exported, change)
    with pytest.raises(AdapterInvalid) as caught:
        validate_adapter(exported, expected_layers=LAYERS, base_digest=BASE)
    assert type(caught.value) is AdapterInvalid


def test_weights_of_another_target_than_the_configuration_says_are_refused(exported: Path) -> None:
    def rename(tensors: Tensors) -> None:
        renamed = {name.replace("up_proj", "down_proj"): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    _rewrite(exported, rename)
    with pytest.raises(AdapterInvalid, match="configuration"):
        validate_adapter(exported)


def test_an_adapter_of_another_base_is_refused(exported: Path) -> None:
    with pytest.raises(WrongBase):
        validate_adapter(exported, base_digest="sha256:" + "2" * 64)
    wider = {layer: (4, 5) for layer in LAYERS}
    deeper = LAYERS | {"model.layers.2.mlp.up_proj": (3, 5)}
    for layers in (wider, deeper):
        with pytest.raises(WrongBase):
            validate_adapter(exported, expected_layers=layers, base_digest=BASE)


def test_an_adapter_that_names_no_base_is_refused_where_one_is_asked_for(exported: Path) -> None:
    path = exported / "adapter_model.safetensors"
    save_file(load_file(path), path)
    validate_adapter(exported)
    with pytest.raises(WrongBase, match="not named"):
        validate_adapter(exported, base_digest=BASE)


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_every_file_of_a_memory_has_to_be_there(exported: Path, name: str) -> None:
    (exported / name).unlink()
    with pytest.raises(AdapterInvalid, match=name.replace(".", r"\.")):
        validate_adapter(exported)


def test_pickled_weights_are_refused_even_beside_good_ones(exported: Path) -> None:
    (exported / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(AdapterInvalid, match="safetensors"):
        validate_adapter(exported)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"\xff" * 8 + data])
def test_damaged_weights_are_refused(exported: Path, damage: Callable[[bytes], bytes]) -> None:
    path = exported / "adapter_model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AdapterInvalid):
        validate_adapter(exported)


def test_the_headers_of_the_base_name_the_layers_that_are_packed(
    tiny_base: BaseDescription, loaded_tiny: LoadedBase
) -> None:
    targets = ("gate_proj", "up_proj", "down_proj")
    packed = PackedAdapters(loaded_tiny.model, targets, slots=2, rank=2).layers
    shapes = {name: (layer.a.shape[2], layer.b.shape[1]) for name, layer in packed.items()}
    assert layers_of_base(tiny_base.path, targets) == shapes


def test_validation_and_publication_never_import_torch() -> None:
    modules = "core.adapters.validation, core.storage.publication, core.storage.opening, core.storage.node_cache"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "False"
