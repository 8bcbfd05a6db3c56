"""What of the way to a GPU's slots can be seen on a CPU: nothing is copied or waited for there."""

from __future__ import annotations

import torch

from core.adapters.staging import slot_copies, staged

CPU = torch.device("cpu")


def test_on_a_cpu_the_weights_stay_where_they_are() -> None:
    weights = {"layer": (torch.ones(2, 3), torch.ones(4, 2))}
    assert staged(weights, CPU) is weights


def test_on_a_cpu_a_copy_is_there_when_the_block_ends() -> None:
    slot = torch.zeros(3)
    with slot_copies(CPU):
        slot.copy_(torch.ones(3), non_blocking=True)
    assert slot.tolist() == [1.0, 1.0, 1.0]
