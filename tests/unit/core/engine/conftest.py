from __future__ import annotations

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase

TARGETS = ("gate_proj", "up_proj", "down_proj", "q_proj")


@pytest.fixture
def adapters(loaded_tiny: LoadedBase) -> PackedAdapters:
    """Slots 1 to 3, of ranks 1, 4 and 8; the last one leaves half of the layers alone."""
    adapters = PackedAdapters(loaded_tiny.model, TARGETS, slots=4, rank=8)
    chance = torch.Generator().manual_seed(1)
    for slot, rank in ((1, 1), (2, 4), (3, 8)):
        names = list(adapters.layers)[:: 2 if slot == 3 else 1]
        shapes = {name: (adapters.layers[name].a.shape[2], adapters.layers[name].b.shape[1]) for name in names}
        weights = {
            name: (
                torch.randn(rank, inner, generator=chance) * 0.2,
                torch.randn(outer, rank, generator=chance) * 0.2,
            )
            for name, (inner, outer) in shapes.items()
        }
        adapters.write(slot, weights, 2.0)
    return adapters
