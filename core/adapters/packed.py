"""Packed adapters: for each target projection one tensor of A's and one of B's over all slots; slot 0 stays zero.

A batch row carries its slot, so every row may use another adapter (Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285).
Training and serving use the same layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.errors import AdapterInvalid

BASE_SLOT = 0


class Routing:
    """Which slot each row of the running forward pass uses; `None` while the base runs alone.

    `slots` is `[rows]`, or `[rows, k]` where a row has the sum of k adapters, each times its weight of `weights`.

    `only` says that all rows use that slot, which saves the products by row: for training, where rounding may differ
    from that of a mixed batch.
    """

    def __init__(self) -> None:
        self.slots: Tensor | None = None
        self.weights: Tensor | None = None
        self.only: int | None = None


class PackedLinear(nn.Module):
    """A frozen linear layer plus one low-rank update per slot.

    `a` is `[slots, rank, in]`, `b` is `[slots, out, rank]`, `scale` is `[slots]`.
    """

    def __init__(self, base: nn.Linear, routing: Routing, slots: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.a = nn.Parameter(base.weight.new_zeros(slots, rank, base.in_features), requires_grad=False)
        self.b = nn.Parameter(base.weight.new_zeros(slots, base.out_features, rank), requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", base.weight.new_zeros(slots), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` is `[rows, tokens, in]`; row i gets the update of slot `routing.slots[i]`, or the sum of several."""
        y: Tensor = self.base(x)
        slots = self.routing.slots
        if slots is None:
            return y
        only = self.routing.only
        if only is not None:
            return y + linear(linear(x, self.a[only]) * self.scale[only], self.b[only])
        if slots.ndim == 2:
            return self._summed(x, y, slots)
        narrow = torch.bmm(x, self.a[slots].transpose(1, 2)) * self.scale[slots, None, None]
        return torch.baddbmm(y, narrow, self.b[slots].transpose(1, 2))

    def _summed(self, x: Tensor, y: Tensor, slots: Tensor) -> Tensor:
        """A sum of k adapters of rank r is one of rank k · r: their A's below, their B's beside each other."""
        assert self.routing.weights is not None
        a = self.a[slots].flatten(1, 2)
        b = self.b[slots].transpose(2, 3).flatten(1, 2)
        scale = (self.scale[slots] * self.routing.weights.to(self.scale)).repeat_interleave(self.a.shape[1], 1)
        return torch.baddbmm(y, torch.bmm(x, a.transpose(1, 2)) * scale[:, None], b)


class PackedAdapters:
    """The slots of one model. Not thread-safe: the owner decides who may write and when."""

    def __init__(self, model: nn.Module, targets: Sequence[str], slots: int, rank: int) -> None:
        self.routing = Routing()
        self._model = model
        self.slots = slots
        self.rank = rank
        self.targets = tuple(targets)
        self.layers = _install(model, self.routing, self.targets, slots, rank)

    @contextmanager
    def routed(self, slots: Tensor | None, weights: Tensor | None = None) -> Iterator[None]:
        """Within it, row i of a forward pass uses slot `slots[i]`; `None` is the base alone.

        With `slots` and `weights` `[rows, k]` row i uses the sum of its slots' updates, each times its weight.
        """
        before = self.routing.slots, self.routing.weights
        self.routing.slots, self.routing.weights = slots, weights
        try:
            yield
        finally:
            self.routing.slots, self.routing.weights = before

    @torch.no_grad()
    def write(self, slot: int, weights: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
        """Puts an adapter into `slot`: layer name to `(a [rank, in], b [out, rank])`; other layers become zero.

        Raises `AdapterInvalid` where a layer is unknown or a shape does not fit; the slot is then cleared.
        """
        if slot == BASE_SLOT:
            raise AdapterInvalid("Slot 0 is the base model's and stays zero.")
        self.clear(slot)
        unknown = sorted(set(weights) - set(self.layers))
        if unknown:
            raise AdapterInvalid(f"The adapter has weights for layers that are not packed here: {unknown[:3]}.")
        for name, (a, b) in weights.items():
            layer = self.layers[name]
            rank = a.shape[0]
            if rank > self.rank or a.shape[1] != layer.a.shape[2] or b.shape != (layer.b.shape[1], rank):
                self.clear(slot)
                raise AdapterInvalid(
                    f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit rank {self.rank}."
                )
            layer.a[slot, :rank] = a.to(layer.a)
            layer.b[slot, :, :rank] = b.to(layer.b)
            layer.scale[slot] = scale

    @torch.no_grad()
    def read(self, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """The weights in `slot`, cloned: layer name to `(a [rank, in], b [out, rank])`, without the scale."""
        return {
            name: (layer.a[slot].detach().clone(), layer.b[slot].detach().clone())
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        for layer in self.layers.values():
            layer.a[slot].zero_()
            layer.b[slot].zero_()
            layer.scale[slot].zero_()

    def remove(self) -> None:
        """Takes the slots out of the model again; it is then as it was before."""
        for name, layer in self.layers.items():
            parent_name, _, leaf = name.rpartition(".")
            setattr(self._model.get_submodule(parent_name), leaf, layer.base)
        self.layers = {}

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in (layer.a, layer.b)]


def _install(
    model: nn.Module, routing: Routing, targets: Sequence[str], slots: int, rank: int
) -> dict[str, PackedLinear]:
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets
    ]
    if not names:
        raise AdapterInvalid(f"The base model has no linear layers named {', '.join(targets)}.")
    layers: dict[str, PackedLinear] = {}
    for name in names:
        parent_name, _, leaf = name.rpartition(".")
        parent: Any = model.get_submodule(parent_name)
        layers[name] = PackedLinear(getattr(parent, leaf), routing, slots, rank)
        setattr(parent, leaf, layers[name])
    return layers
