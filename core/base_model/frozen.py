"""Frozen linear layers whose weights are packed for oneDNN, on a CPU in fp32.

A base model's weights never change, so they are brought once into the layout that the matrix kernels want. The products
stay fp32; a batch of few rows, which is what decoding is, is up to three times as fast as with torch's own layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

TYPICAL_ROWS = 64
"""Rows of a product that the layout is chosen for; every other number works too."""


class FrozenLinear(nn.Linear):
    """A linear layer without gradients of its own; `weight` and `bias` stay what they were, for whoever reads them.

    On another device or in another type than fp32 it is a plain linear layer.
    """

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._forwards: Tensor | None = None
        self._backwards: Tensor | None = None
        self._of = self.weight._version

    def __getstate__(self) -> dict[str, Any]:
        # Packed tensors can't be copied; a copy packs its own.
        return {**self.__dict__, "_forwards": None, "_backwards": None}

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return nn.functional.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled() and input.requires_grad:
            product: Tensor = _Product.apply(input, self)
            return product
        return self.product(input)

    def product(self, x: Tensor) -> Tensor:
        """`x · weightᵀ + bias`, `[…, in]` to `[…, out]`."""
        self._notice_changes()
        if self._forwards is None:
            self._forwards = _pack(self.weight)
        return _product(x, self._forwards, self.bias)

    def backward_product(self, gradient: Tensor) -> Tensor:
        """`gradient · weight`, `[…, out]` to `[…, in]`; the layout for it is made when training first needs it."""
        self._notice_changes()
        if self._backwards is None:
            self._backwards = _pack(self.weight.t().contiguous())
        return _product(gradient, self._backwards, None)

    def _notice_changes(self) -> None:
        """Weights that were written to in place, in spite of all, are packed anew."""
        if self.weight._version != self._of:
            self.forget()
            self._of = self.weight._version

    def forget(self) -> None:
        """Packs the weights anew when they are next used."""
        self._forwards = self._backwards = None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        layer: FrozenLinear = ctx.layer  # type: ignore[attr-defined]
        return layer.backward_product(gradients[0]), None


def freeze(model: nn.Module) -> None:
    """Replaces every linear layer of `model`, which must not be trained afterwards; none where oneDNN is missing."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, FrozenLinear(module))


def _pack(weight: Tensor) -> Tensor:
    with torch.no_grad():
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL_ROWS)
    return packed


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.no_grad():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return product
