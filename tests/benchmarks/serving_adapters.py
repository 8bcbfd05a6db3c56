"""Random adapters of the shape that the recipe makes: how long they take does not depend on what they know."""

from __future__ import annotations

import torch
from torch import Tensor

from core.adapters.files import number_of_layer
from core.adapters.packed import PackedAdapters
from core.settings import RecipeSettings

Weights = dict[str, tuple[Tensor, Tensor]]


def weights_of_recipe(adapters: PackedAdapters, recipe: RecipeSettings, layers: int, seed: int) -> Weights:
    """Layer name to `(a [rank, in], b [out, rank])`, for a base of so many layers."""
    chance = torch.Generator().manual_seed(seed)
    first = int(layers * recipe.untouched_layers)
    return {
        name: (_random(recipe.rank, layer.a.shape[2], chance), _random(layer.b.shape[1], recipe.rank, chance))
        for name, layer in adapters.layers.items()
        if number_of_layer(name) >= first
    }


def _random(rows: int, columns: int, chance: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=chance) * 0.02
