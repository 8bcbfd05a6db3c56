"""Adapters on disk, as PEFT writes and reads them; only safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
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

    weights: Mapping[str, tuple[Tensor, Tensor]]
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
    layers: Sequence[int] | None = None,
) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json` into `directory`.

    `weights` is layer name to `(a [rank, in], b [out, rank])`, as `PackedAdapters.read` gives it; the update is
    `alpha / rank · b·a`. The same weights give the same bytes, and so the same digest. `base_digest` is noted in the
    weights' metadata for `validate_adapter`. `layers` are the numbers of the adapted decoder layers, where not all are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        weight_name(layer, side): tensor.detach().cpu().contiguous().clone()
        for layer, pair in weights.items()
        for side, tensor in zip("ab", pair, strict=True)
    }
    metadata = {"format": "pt"} | ({BASE_DIGEST: base_digest} if base_digest else {})
    (directory / WEIGHTS_FILE).write_bytes(_canonical(save(tensors, metadata)))
    adapted = None if layers is None else tuple(layers)
    config = AdapterConfig(base_name, rank, alpha, tuple(targets), tuple(activation_tokens), adapted)
    (directory / CONFIG_FILE).write_text(json.dumps(config.to_json(), indent=2) + "\n")


def load_adapter(directory: Path) -> LoadedAdapter:
    """What `save_adapter` wrote, in RAM, independent of the file; raises `AdapterInvalid` where it is no adapter."""
    config = read_config(directory)
    try:
        tensors = load((directory / WEIGHTS_FILE).read_bytes())
    except (OSError, SafetensorError) as problem:
        raise AdapterInvalid(f"{WEIGHTS_FILE} can't be read: {problem}") from problem
    weights = {layer: (tensors[a], tensors[b]) for layer, (a, b) in pairs_of(tensors).items()}
    return LoadedAdapter(weights, config.scale, config.rank, config.targets, config.activation_tokens)


def _canonical(data: bytes) -> bytes:
    """The same safetensors file with its header sorted: the library writes the metadata in random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), separators=(",", ":"), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
