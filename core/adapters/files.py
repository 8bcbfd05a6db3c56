"""What an adapter's directory consists of, and what its configuration says. Knows no torch.

adapter_model.safetensors, adapter_config.json   a PEFT adapter; keys `base_model.model.<layer>.lora_A.weight`
calibration.json                                 the memory's samples for the gate of its bank
index.safetensors, index.json                    the memory's retrieval entries and their embeddings
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import AdapterInvalid

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
CALIBRATION_FILE = "calibration.json"
INDEX_FILE = "index.json"
INDEX_VECTORS_FILE = "index.safetensors"

REQUIRED_FILES = (WEIGHTS_FILE, CONFIG_FILE)
"""What makes a PEFT adapter."""
ADAPTER_FILES = (*REQUIRED_FILES, CALIBRATION_FILE, INDEX_FILE, INDEX_VECTORS_FILE)
"""What makes a memory; nothing else is ever published."""

BASE_DIGEST = "latentbank_base_digest"
"""The key in the metadata of the weights' safetensors that names the base model they were trained on."""

_PREFIX = "base_model.model."
_SIDES = {"a": ".lora_A.weight", "b": ".lora_B.weight"}
_MUST_BE_OFF = ("use_dora", "use_rslora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The part of `adapter_config.json` that LatentBank reads. The update is `scale · B·A`, from the first of
    `activation_tokens` on."""

    base_name: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    activation_tokens: tuple[int, ...]
    layers: tuple[int, ...] | None = None
    """The numbers of the decoder layers that are adapted; `None` for all."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def to_json(self) -> dict[str, Any]:
        """The fields as PEFT reads them; `alora_invocation_tokens` makes it an activated LoRA there."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_name,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted(self.targets),
            "layers_to_transform": None if self.layers is None else list(self.layers),
            "alora_invocation_tokens": list(self.activation_tokens),
            "bias": "none",
            "fan_in_fan_out": False,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        }


def weight_name(layer: str, side: str) -> str:
    """PEFT's key of the `a` or `b` side of `layer`, the layer's name in the base model."""
    return f"{_PREFIX}{layer}{_SIDES[side]}"


def number_of_layer(name: str) -> int:
    """The number of the decoder layer that a module lies in: 14 for `model.layers.14.mlp.up_proj`; else 0."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def pairs_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Layer name to the keys of its A and B; raises `AdapterInvalid` for a key that is no LoRA weight or is alone."""
    found = set(names)
    layers = {layer for name in found if (layer := _layer_of(name)) is not None}
    pairs = {layer: (weight_name(layer, "a"), weight_name(layer, "b")) for layer in sorted(layers)}
    expected = {name for pair in pairs.values() for name in pair}
    if not pairs:
        raise AdapterInvalid("The adapter has no weights.")
    if found != expected:
        odd = sorted(found ^ expected)
        raise AdapterInvalid(f"The adapter's weights are not pairs of lora_A and lora_B: {', '.join(odd[:3])}.")
    return pairs


def read_config(directory: Path) -> AdapterConfig:
    """Reads `adapter_config.json`; raises `AdapterInvalid` where it asks for what the packed slots can't do."""
    try:
        fields = json.loads((directory / CONFIG_FILE).read_bytes())
        config = _parse(fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise AdapterInvalid(f"{CONFIG_FILE} can't be used: {problem!r:.200}") from problem
    asked = [name for name in _MUST_BE_OFF if fields.get(name)]
    if asked or fields.get("peft_type") != "LORA" or fields.get("bias") != "none" or fields.get("modules_to_save"):
        raise AdapterInvalid(
            f"{CONFIG_FILE} describes more than a plain LoRA: {', '.join(asked) or 'its type or bias'}."
        )
    return config


def _parse(fields: Mapping[str, Any]) -> AdapterConfig:
    targets, tokens = fields["target_modules"], fields["alora_invocation_tokens"]
    if not isinstance(targets, list) or not isinstance(tokens, list) or not targets or not tokens:
        raise ValueError("target_modules and alora_invocation_tokens must be lists that are not empty")
    config = AdapterConfig(
        base_name=str(fields["base_model_name_or_path"]),
        rank=int(fields["r"]),
        alpha=float(fields["lora_alpha"]),
        targets=tuple(map(str, targets)),
        activation_tokens=tuple(map(int, tokens)),
        layers=None if fields.get("layers_to_transform") is None else tuple(map(int, fields["layers_to_transform"])),
    )
    if config.rank < 1 or not 0 < config.alpha < float("inf"):
        raise ValueError("r and lora_alpha must be positive")
    return config


def _layer_of(name: str) -> str | None:
    if not name.startswith(_PREFIX):
        return None
    for ending in _SIDES.values():
        if name.endswith(ending):
            return name.removeprefix(_PREFIX).removesuffix(ending) or None
    return None
