"""How adapters get from RAM to a GPU's slots without anybody waiting; on a CPU all of this is nothing.

Unmeasured: written for CUDA, where it has never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

Weights = Mapping[str, tuple[Tensor, Tensor]]


def staged(weights: Weights, device: torch.device) -> Weights:
    """The weights where `device` can copy them from while the processor goes on: in pinned memory."""
    if device.type != "cuda":
        return weights
    return {name: (a.pin_memory(), b.pin_memory()) for name, (a, b) in weights.items()}


@contextmanager
def slot_copies(device: torch.device) -> Iterator[None]:
    """Within it, copies to slots run beside the passes of the calling thread's stream.

    They begin when the passes that are under way, which may still read what was in the slot, have ended; and passes
    that come after the block wait for them. The caller waits for neither.
    """
    if device.type != "cuda":
        yield
        return
    passes, copies = torch.cuda.current_stream(device), _stream_of(device)
    copies.wait_stream(passes)
    with torch.cuda.stream(copies):
        yield
    passes.wait_stream(copies)


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
