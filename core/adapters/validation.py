"""Is an exported adapter what it says? Asked before it is published; knows no torch, since the worker's parent asks.

An export can be empty (ZeRO-3, DeepSpeed#7900), NaN, all zero, of another shape or of another base model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from core.adapters.files import (
    ADAPTER_FILES,
    BASE_DIGEST,
    WEIGHTS_FILE,
    AdapterConfig,
    number_of_layer,
    pairs_of,
    read_config,
)
from core.errors import AdapterInvalid, WrongBase

Array = NDArray[np.float32]

_FOREIGN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def validate_adapter(
    directory: Path,
    *,
    expected_layers: Mapping[str, tuple[int, int]] | None = None,
    base_digest: str | None = None,
    required_files: Collection[str] = ADAPTER_FILES,
) -> AdapterConfig:
    """Checks files, keys, shapes, types and values; returns the adapter's configuration.

    `expected_layers` is layer name to `(in, out)`, see `layers_of_base`; without it shapes need only fit each other.
    Raises `WrongBase` where the weights name another base than `base_digest` or none, or have other layers;
    `AdapterInvalid` for everything else.
    """
    _check_files(directory, required_files)
    config = read_config(directory)
    _check_base(directory / WEIGHTS_FILE, base_digest)
    arrays = _read_arrays(directory / WEIGHTS_FILE)
    layers = {layer: (arrays[a], arrays[b]) for layer, (a, b) in pairs_of(arrays).items()}
    _check_names(layers, config, expected_layers)
    for layer, (a, b) in layers.items():
        _check_layer(layer, a, b, config.rank, (expected_layers or {}).get(layer))
    if not any(a.any() and b.any() for a, b in layers.values()):
        raise AdapterInvalid("The adapter is all zero and would change nothing.")
    return config


def layers_of_base(directory: Path, targets: Collection[str]) -> dict[str, tuple[int, int]]:
    """Layer name to `(in, out)` of every projection of a prepared base model that `targets` names, from the headers of
    its safetensors files; no weight is read."""
    layers: dict[str, tuple[int, int]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                layer = name.removesuffix(".weight")
                if layer != name and layer.rsplit(".", 1)[-1] in targets:
                    rows, columns = file.get_slice(name).get_shape()
                    layers[layer] = (columns, rows)
    return layers


def _check_files(directory: Path, required: Collection[str]) -> None:
    missing = [name for name in required if not (directory / name).is_file()]
    if missing:
        raise AdapterInvalid(f"The adapter lacks {', '.join(missing)}.")
    foreign = [path.name for path in directory.iterdir() if path.suffix in _FOREIGN_WEIGHTS]
    if foreign:
        raise AdapterInvalid(f"Only safetensors are accepted, not {', '.join(sorted(foreign))}.")


def _check_base(path: Path, base_digest: str | None) -> None:
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get(BASE_DIGEST)
    except (OSError, SafetensorError) as problem:
        raise AdapterInvalid(f"{path.name} can't be read: {problem}") from problem
    if base_digest is not None and found != base_digest:
        raise WrongBase(f"The adapter was trained on the base {found or '(not named)'}, not on {base_digest}.")


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        entries = deserialize(path.read_bytes())
    except (OSError, SafetensorError) as problem:
        raise AdapterInvalid(f"{path.name} can't be read: {problem}") from problem
    return {name: _as_float32(name, entry) for name, entry in entries}


def _as_float32(name: str, entry: Mapping[str, Any]) -> Array:
    kind, shape, data = entry["dtype"], entry["shape"], entry["data"]
    if kind == "F32":
        return np.frombuffer(data, dtype="<f4").reshape(shape)
    if kind == "F16":
        return np.frombuffer(data, dtype="<f2").astype(np.float32).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    raise AdapterInvalid(f"{name} is of type {kind}; weights are F32, F16 or BF16.")


def _check_names(
    layers: Collection[str], config: AdapterConfig, expected: Mapping[str, tuple[int, int]] | None
) -> None:
    leaves = {layer.rsplit(".", 1)[-1] for layer in layers}
    if leaves != set(config.targets):
        raise AdapterInvalid(f"The weights are of {sorted(leaves)}, the configuration says {sorted(config.targets)}.")
    adapted = None if config.layers is None else set(config.layers)
    wanted = {name for name in expected or () if adapted is None or number_of_layer(name) in adapted}
    if expected is not None and set(layers) != wanted:
        odd = sorted(set(layers) ^ wanted)
        raise WrongBase(f"The adapter's layers are not the base model's: {', '.join(odd[:3])}.")


def _check_layer(layer: str, a: Array, b: Array, rank: int, expected: tuple[int, int] | None) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank or not a.size or not b.size:
        raise AdapterInvalid(f"{layer}: shapes {a.shape} and {b.shape} do not make an update of rank {rank}.")
    if expected is not None and (a.shape[1], b.shape[0]) != expected:
        raise WrongBase(f"{layer}: maps {a.shape[1]} to {b.shape[0]}; the base model's maps {expected}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise AdapterInvalid(f"{layer}: weights are not finite.")
