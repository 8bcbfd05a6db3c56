from __future__ import annotations

import pytest

from core.adapters.packed import PackedAdapters, slot_bytes
from core.base_model.loading import LoadedBase
from core.errors import SetupError
from core.settings import ServingSettings
from workers.inference.assembly import slots_of

TARGETS = ("gate_proj", "down_proj")


def test_a_budget_in_bytes_gives_as_many_slots_as_fit() -> None:
    assert slots_of(ServingSettings(slots=5), 1000) == 5
    assert slots_of(ServingSettings(slots=5, slots_bytes=2999), 1000) == 2
    assert slots_of(ServingSettings(slots_bytes=3000), 1000) == 3


def test_a_budget_without_room_for_an_adapter_says_what_it_would_take() -> None:
    with pytest.raises(SetupError, match="take 2000"):
        slots_of(ServingSettings(slots_bytes=1999), 1000)


def test_a_slot_takes_what_is_said_before_there_are_any(loaded_tiny: LoadedBase) -> None:
    said = slot_bytes(loaded_tiny.model, TARGETS, 4)
    packed = PackedAdapters(loaded_tiny.model, TARGETS, slots=3, rank=4)
    held = sum(layer.a.nbytes + layer.b.nbytes for layer in packed.layers.values())
    assert 3 * said == 3 * packed.slot_bytes == held
