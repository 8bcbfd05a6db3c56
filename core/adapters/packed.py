"""Packed adapters: for each target projection one tensor of A's and one of B's over all slots; slot 0 stays zero.

A batch row carries its slot, so every row may use another adapter (Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285).
Training and serving use the same layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.staging import slot_copies
from core.errors import AdapterInvalid

BASE_SLOT = 0


class Routing:
    """Which adapters the tokens of the running forward pass have; none while the base runs alone.

    `spans` are those of slots. `blocks` are the adapters in training, by number, to which the rows belong instead: as
    many consecutive rows to each.
    """

    def __init__(self) -> None:
        self.spans: tuple[Span, ...] = ()
        self.blocks: tuple[int, ...] | None = None
        self.training_scale = 1.0


class Adapted:
    """The adapters of a block's first rows: row i has the sum of the k in `slots[i]`, each times its weight; both
    `[rows, k]`. Rows after them are the base's.

    Their weights are gathered once, and moved when rows come and go, so those slots must not be written to.
    """

    def __init__(self, adapters: PackedAdapters, slots: Tensor, weights: Tensor) -> None:
        self.routing = adapters.routing
        self.slots = slots
        self.weights = weights
        # Known here, so that a GPU is asked once and not for every layer; more than there are do no harm.
        self._numbers = set(slots.flatten().tolist())
        self._gathered: dict[PackedLinear, tuple[Tensor, Tensor] | None] = {}

    def of(self, layer: PackedLinear) -> tuple[Tensor, Tensor] | None:
        """A's `[rows, rank, in]`, scaled, and B's `[rows, rank, out]`; `None` where no row has any for this layer."""
        if layer not in self._gathered:
            self._gathered[layer] = layer.gathered(self.slots, self.weights, self._numbers)
        found = self._gathered[layer]
        return None if found is None else (found[0][: len(self.slots)], found[1][: len(self.slots)])

    def add(self, slots: Tensor, weights: Tensor) -> None:
        """One more row at the end, of `[k]` slots with their weights."""
        at = len(self.slots)
        self.slots, self.weights = torch.cat([self.slots, slots[None]]), torch.cat([self.weights, weights[None]])
        numbers = set(slots.tolist())
        self._numbers |= numbers
        for layer, known in list(self._gathered.items()):
            own = layer.gathered(slots[None], weights[None], numbers)
            if own is None and known is None:
                continue
            if known is None or (own is not None and own[0].shape[1] > known[0].shape[1]):
                del self._gathered[layer]
                continue
            pair = known if at < len(known[0]) else (_with_room(known[0]), _with_room(known[1]))
            for tensor, rest in zip(pair, own or (None, None), strict=True):
                tensor[at].zero_()
                if rest is not None:
                    tensor[at, : rest.shape[1]] = rest[0]
            self._gathered[layer] = pair

    def drop(self, row: int) -> None:
        """Without this row; the last one takes its place."""
        last = len(self.slots) - 1
        for tensor in (self.slots, self.weights, *(t for pair in self._gathered.values() if pair for t in pair)):
            tensor[row] = tensor[last]
            tensor[last].zero_()
        self.slots, self.weights = self.slots[:last], self.weights[:last]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Consecutive tokens of a pass from `start` on: `rows` of `width` tokens, each row with its adapter."""

    start: int
    rows: int
    width: int
    adapted: Adapted


def _with_room(rows: Tensor) -> Tensor:
    """The rows in a tensor of twice as many."""
    return torch.cat([rows, torch.zeros_like(rows)])


@contextmanager
def routed(spans: Sequence[Span]) -> Iterator[None]:
    """Within it a forward pass has the adapters of `spans`, all of the same slots; other tokens are the base's."""
    if not spans:
        yield
        return
    routing = spans[0].adapted.routing
    before, routing.spans = routing.spans, tuple(spans)
    try:
        yield
    finally:
        routing.spans = before


class PackedLinear(nn.Module):
    """A frozen linear layer plus one low-rank update per slot.

    `a` is `[slots, rank, in]`, `b` is `[slots, out, rank]`, `scale` is `[slots]`; `ranks` says how much of a slot is
    in use. Adapters in training have parameters of their own, `a_0`, `b_0`, `a_1`, …, so that each has its own
    optimiser state and learning rate.
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
        self.ranks = [0] * slots
        self.register_buffer("a", base.weight.new_zeros(slots, rank, base.in_features), persistent=False)
        self.register_buffer("b", base.weight.new_zeros(slots, base.out_features, rank), persistent=False)
        self.register_buffer("scale", base.weight.new_zeros(slots), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` is `[rows, tokens, in]`; what adapters add to its tokens is the routing's to say."""
        y: Tensor = self.base(x)
        if self.routing.blocks is not None:
            return self._in_training(x, y, self.routing.blocks) if self.trained else y
        self.add(self.routing.spans, x, y)
        return y

    def add(self, spans: Sequence[Span], x: Tensor, y: Tensor) -> None:
        """Adds to `y` `[…, tokens, out]` what adapters, of `spans` or in training, make of `x` `[…, tokens, in]`."""
        if self.routing.blocks is not None:
            if self.trained:
                y.copy_(self._in_training(x, y, self.routing.blocks))
            return
        for span in spans:
            pair = span.adapted.of(self)
            if pair is None:
                continue
            a, b = pair
            end = span.start + span.rows * span.width
            theirs, added = (
                part.flatten(0, -2)[span.start : end].unflatten(0, (span.rows, span.width)) for part in (x, y)
            )
            added += torch.bmm(torch.bmm(theirs, a.transpose(1, 2)), b)

    def gathered(self, slots: Tensor, weights: Tensor, numbers: Collection[int]) -> tuple[Tensor, Tensor] | None:
        """What `Adapted.of` says; `numbers` are those in `slots`.

        A sum of k adapters of rank r is one of rank k · r: all A's below each other, all B's beside each other.
        """
        rank = max(self.ranks[slot] for slot in numbers)
        if rank == 0:
            return None
        scale = self.scale[slots] * weights.to(self.scale)
        a = self.a[slots, :rank] * scale[:, :, None, None]
        return a.flatten(1, 2), self.b[slots, :, :rank].transpose(2, 3).flatten(1, 2)

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


class PackedAdapters:
    """The slots of one model. Not thread-safe: the owner decides who may write and when."""

    def __init__(self, model: Any, targets: Sequence[str], slots: int, rank: int) -> None:
        self.routing = Routing()
        self._model = model
        self.slots = slots
        self.rank = rank
        self.targets = tuple(targets)
        self.slot_bytes = slot_bytes(model, self.targets, rank)
        """What one slot takes, whatever is in it."""
        self.layers = _install(model, self.routing, self.targets, slots, rank)

    @property
    def device(self) -> torch.device:
        """Where the slots are."""
        device: torch.device = self._model.device
        return device

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
            if a.shape[0] > self.rank or a.shape[1] != layer.a.shape[2] or b.shape != (layer.b.shape[1], a.shape[0]):
                raise AdapterInvalid(
                    f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit rank {self.rank}."
                )
        with slot_copies(self.device):
            for name, (a, b) in weights.items():
                layer, rank = self.layers[name], a.shape[0]
                layer.a[slot, :rank].copy_(a, non_blocking=True)
                layer.b[slot, :, :rank].copy_(b, non_blocking=True)
                layer.scale[slot] = scale
                layer.ranks[slot] = rank

    @torch.no_grad()
    def read(self, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """The weights in `slot`, cloned: layer name to `(a [rank, in], b [out, rank])`, without the scale."""
        return {
            name: (layer.a[slot].detach().clone(), layer.b[slot].detach().clone())
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def copy(self, slot: int) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """Weights and scale as `write` took them, cloned; in the slots' type."""
        held = {name: layer for name, layer in self.layers.items() if layer.ranks[slot]}
        weights = {
            name: (layer.a[slot, : layer.ranks[slot]].clone(), layer.b[slot, :, : layer.ranks[slot]].clone())
            for name, layer in held.items()
        }
        return weights, max((float(layer.scale[slot]) for layer in held.values()), default=0.0)

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        with slot_copies(self.device):
            for layer in self.layers.values():
                layer.a[slot].zero_()
                layer.b[slot].zero_()
                layer.scale[slot].zero_()
                layer.ranks[slot] = 0

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


def slot_bytes(model: nn.Module, targets: Sequence[str], rank: int) -> int:
    """What one slot of that rank takes in the packed tensors of `model`."""
    return sum(
        (layer.in_features + layer.out_features) * rank * layer.weight.element_size()
        for layer in _targeted(model, targets).values()
    )


def _install(
    model: nn.Module, routing: Routing, targets: Sequence[str], slots: int, rank: int
) -> dict[str, PackedLinear]:
    found = _targeted(model, targets)
    layers: dict[str, PackedLinear] = {}
    for name, layer in found.items():
        parent_name, _, leaf = name.rpartition(".")
        parent: Any = model.get_submodule(parent_name)
        layers[name] = PackedLinear(layer, routing, slots, rank)
        setattr(parent, leaf, layers[name])
    return layers


def _targeted(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers that are named so. Raises `AdapterInvalid` where there are none."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets
    }
    if not found:
        raise AdapterInvalid(f"The base model has no linear layers named {', '.join(targets)}.")
    return found
