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

from core.errors import AdapterInvalid

BASE_SLOT = 0


class Routing:
    """Which slot each row of the running forward pass uses; `None` while the base runs alone.

    `slots` is `[rows]`, or `[rows, k]` where a row has the sum of k adapters, each times its weight of `weights`.
    `blocks` are the adapters in training, by number, to which the rows belong instead: as many consecutive rows to
    each.
    """

    def __init__(self) -> None:
        self.slots: Tensor | None = None
        self.weights: Tensor | None = None
        self.blocks: tuple[int, ...] | None = None
        self.training_scale = 1.0


class PackedLinear(nn.Module):
    """A frozen linear layer plus one low-rank update per slot.

    `a` is `[slots, rank, in]`, `b` is `[slots, out, rank]`, `scale` is `[slots]`. Adapters in training have parameters
    of their own, `a_0`, `b_0`, `a_1`, …, so that each has its own optimiser state and learning rate.
    """

    a: Tensor
    b: Tensor
    scale: Tensor

    def __init__(self, base: nn.Linear, routing: Routing, slots: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.rank = rank
        self.trained = 0
        self.register_buffer("a", base.weight.new_zeros(slots, rank, base.in_features), persistent=False)
        self.register_buffer("b", base.weight.new_zeros(slots, base.out_features, rank), persistent=False)
        self.register_buffer("scale", base.weight.new_zeros(slots), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` is `[rows, tokens, in]`; row i gets the update of slot `routing.slots[i]`, or the sum of several, or its
        block's adapter.
        """
        y: Tensor = self.base(x)
        blocks, slots = self.routing.blocks, self.routing.slots
        if blocks is not None:
            return self._in_training(x, y, blocks) if self.trained else y
        if slots is None:
            return y
        if slots.ndim == 2:
            return self._summed(x, y, slots)
        narrow = torch.bmm(x, self.a[slots].transpose(1, 2)) * self.scale[slots, None, None]
        return torch.baddbmm(y, narrow, self.b[slots].transpose(1, 2))

    def open_for_training(self, adapters: int) -> None:
        """Makes room for that many adapters in training."""
        weight = self.base.weight
        for number in range(self.trained, adapters):
            self.register_parameter(f"a_{number}", nn.Parameter(weight.new_zeros(self.rank, self.base.in_features)))
            self.register_parameter(f"b_{number}", nn.Parameter(weight.new_zeros(self.base.out_features, self.rank)))
        self.trained = max(self.trained, adapters)

    def in_training(self, number: int) -> tuple[nn.Parameter, nn.Parameter]:
        """A `[rank, in]` and B `[out, rank]` of an adapter in training."""
        return self.get_parameter(f"a_{number}"), self.get_parameter(f"b_{number}")

    def _in_training(self, x: Tensor, y: Tensor, blocks: tuple[int, ...]) -> Tensor:
        pairs = [self.in_training(number) for number in blocks]
        a, b = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
        count = len(blocks)
        narrow = torch.bmm(x.reshape(count, -1, x.shape[-1]), a.transpose(1, 2)) * self.routing.training_scale
        return torch.baddbmm(y.reshape(count, -1, y.shape[-1]), narrow, b.transpose(1, 2)).view_as(y)

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

    @contextmanager
    def training(self, blocks: Sequence[int], scale: float) -> Iterator[None]:
        """Within it, the rows of a forward pass belong to adapters in training: as many consecutive rows to each."""
        routing = self.routing
        before = routing.blocks, routing.training_scale
        routing.blocks, routing.training_scale = tuple(blocks), scale
        try:
            yield
        finally:
            routing.blocks, routing.training_scale = before


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
