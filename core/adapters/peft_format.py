"""Adapters on disk, as PEFT writes and reads them; only safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.files import (
    BASE_DIGEST,
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterConfig,
    pairs_of,
    read_config,
    weight_name,
)
from core.errors import AdapterInvalid


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """An adapter in memory, ready for `PackedAdapters.write`: layer name to `(a [rank, in], b [out, rank])`."""

    weights: dict[str, tuple[Tensor, Tensor]]
    scale: float
    rank: int
    targets: tuple[str, ...]
    activation_tokens: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.weights.values())


def save_adapter(
    directory: Path,
    weights: Mapping[str, tuple[Tensor, Tensor]],
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    base_name: str,
    activation_tokens: Sequence[int],
    base_digest: str | None = None,
) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json` into `directory`.

    `weights` is layer name to `(a [rank, in], b [out, rank])`, as `PackedAdapters.read` gives it; the update is
    `alpha / rank · b·a`. `base_digest` is noted in the weights' metadata for `validate_adapter`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        weight_name(layer, side): tensor.detach().cpu().contiguous().clone()
        for layer, pair in weights.items()
        for side, tensor in zip("ab", pair, strict=True)
    }
    metadata = {"format": "pt"} | ({BASE_DIGEST: base_digest} if base_digest else {})
    save_file(tensors, directory / WEIGHTS_FILE, metadata)
    config = AdapterConfig(base_name, rank, alpha, tuple(targets), tuple(activation_tokens))
    (directory / CONFIG_FILE).write_text(json.dumps(config.to_json(), indent=2) + "\n")


def load_adapter(directory: Path) -> LoadedAdapter:
    """Reads what `save_adapter` wrote, onto the CPU; raises `AdapterInvalid` where it is not an adapter."""
    config = read_config(directory)
    try:
        tensors = load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as problem:
        raise AdapterInvalid(f"{WEIGHTS_FILE} can't be read: {problem}") from problem
    weights = {layer: (tensors[a], tensors[b]) for layer, (a, b) in pairs_of(tensors).items()}
    return LoadedAdapter(weights, config.scale, config.rank, config.targets, config.activation_tokens)
