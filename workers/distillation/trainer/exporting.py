"""The files of a finished memory: a PEFT adapter, its samples for the gate, its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core.adapters.peft_format import save_adapter
from core.base_model.loading import LoadedBase
from core.gate.samples import Sample, save_samples
from core.retrieval.index import MemoryIndex, save_index
from core.settings import RecipeSettings


def export(
    directory: Path,
    base: LoadedBase,
    weights: Mapping[str, tuple[Tensor, Tensor]],
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
    )
    save_samples(directory, samples)
    save_index(directory, index, encoder, study)
