"""The files of a finished memory: a PEFT adapter, its samples for the gate, and its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.adapters.files import number_of_layer
from core.adapters.peft_format import save_adapter
from core.base_model.loading import LoadedBase
from core.gate.samples import Sample, save_samples
from core.retrieval.index import MemoryIndex, save_index
from core.settings import RecipeSettings

Weights = Mapping[str, tuple[Tensor, Tensor]]

DTYPE = torch.bfloat16
"""Half the bytes of fp32; what is judged and served are the rounded weights."""


def rounded(weights: Weights) -> dict[str, tuple[Tensor, Tensor]]:
    """The weights as they are published."""
    return {name: (a.to(DTYPE), b.to(DTYPE)) for name, (a, b) in weights.items()}


def export(
    directory: Path,
    base: LoadedBase,
    weights: Weights,
    samples: Sequence[Sample],
    index: MemoryIndex,
    encoder: str,
    recipe: RecipeSettings,
    study: Mapping[str, Any],
) -> None:
    """Writes everything that serving needs into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    save_adapter(
        directory,
        dict(weights),
        rank=recipe.rank,
        alpha=recipe.alpha,
        targets=recipe.targets,
        base_name=base.description.name,
        activation_tokens=base.description.activation_tokens,
        base_digest=base.description.digest,
        layers=sorted({number_of_layer(name) for name in weights}) if recipe.untouched_layers else None,
    )
    save_samples(directory, samples)
    save_index(directory, index, encoder, study)
