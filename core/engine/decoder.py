"""The forward pass of decoders that are built like Llama, in fewer and larger operations than `transformers` takes.

At sixteen rows `transformers` spends more time between the matrix products of a decoding step than in them. Here layers
that read the same input are one product, and queries and keys are rotated as one. Norms, rotary angles and activations
are the model's own modules' parameters, so the result is the model's up to rounding; `install.py` checks that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from core.adapters.packed import PackedLinear, Span
from core.base_model.frozen import FrozenLinear


class Attend(Protocol):
    """`[tokens, heads, width]` for queries of that shape, with the layer's new keys and values, fewer heads each."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


def decoder_of(model: nn.Module) -> Decoder | None:
    """The model's shorter forward pass, where it has one that can run now."""
    found = _decoders.get(model)
    return found if found is not None and found.whole else None


def adopt(model: nn.Module) -> None:
    """Gives `model` a shorter forward pass. Raises `AttributeError` or `ValueError` where it is built otherwise."""
    _decoders[model] = Decoder(model)


def abandon(model: nn.Module) -> None:
    """Leaves `model` to its own forward pass."""
    _decoders.pop(model, None)


class Decoder:
    """Embedding, layers, last norm and head of a model, whose weights are all here and frozen."""

    def __init__(self, model: Any) -> None:
        if _depends_on_length(model.config):
            raise ValueError("a model whose attention or angles change with the length")
        self._decoder: Any = model.get_decoder()
        self._modules = self._decoder.layers
        self._layers = [_Layer(module) for module in self._modules]
        self.head: nn.Module = model.get_output_embeddings()
        self.scale: float = self._modules[0].self_attn.scaling

    @property
    def whole(self) -> bool:
        """Whether the model has all its layers now (`core/engine/partial.py` takes some away)."""
        return self._decoder.layers is self._modules

    @torch.no_grad()
    def __call__(self, ids: Tensor, positions: Tensor, spans: Sequence[Span], attend: Attend) -> Tensor:
        """What the last layer gives, normed, `[tokens, hidden]`, for `[tokens]` of any number of sequences."""
        x: Tensor = self._decoder.embed_tokens(ids)
        cos, sin = (part[0, :, None] for part in self._decoder.rotary_emb(x[None], positions[None]))
        half = sin.shape[-1] // 2
        turn = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        for number, layer in enumerate(self._layers):
            x = layer(number, x, (cos, turn), spans, attend)
        return _normed(x, self._decoder.norm)


class _Layer:
    def __init__(self, module: Any) -> None:
        self._before, self._between = module.input_layernorm, module.post_attention_layernorm
        attention, mlp = module.self_attn, module.mlp
        if hasattr(attention, "q_norm"):
            raise ValueError("an attention with norms of its own")
        self._width = attention.head_dim
        self._qkv = Siblings(attention, ("q_proj", "k_proj", "v_proj"))
        self._out = Siblings(attention, ("o_proj",))
        self._wide = Siblings(mlp, ("gate_proj", "up_proj"))
        self._narrow = Siblings(mlp, ("down_proj",))
        self._activation = mlp.act_fn

    def __call__(
        self, number: int, x: Tensor, angles: tuple[Tensor, Tensor], spans: Sequence[Span], attend: Attend
    ) -> Tensor:
        heads = self._qkv(_normed(x, self._before), spans).unflatten(-1, (-1, self._width))
        kv = self._qkv.sizes[1] // self._width
        turned, value = _turned(heads[:, :-kv], *angles), heads[:, -kv:]
        seen = attend(number, turned[:, :-kv], turned[:, -kv:], value)
        x = self._out(seen.flatten(1), spans).add_(x)
        gate, up = self._wide(_normed(x, self._between), spans).split(self._wide.sizes, -1)
        return self._narrow(self._activation(gate).mul_(up), spans).add_(x)


class Siblings:
    """Linear layers of `parent` that read the same input: one product for all of them, then the adapters of each.

    Their weights become views of one tensor, so that nothing is held twice.
    """

    def __init__(self, parent: nn.Module, names: Sequence[str]) -> None:
        self._parent, self._names = parent, names
        parts = [_base_of(getattr(parent, name)) for name in names]
        self.sizes = [part.out_features for part in parts]
        self._parts = parts
        self._linear = parts[0] if len(parts) == 1 else _as_one(parts)
        self._versions = self._now()

    def __call__(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """`[tokens, sum of sizes]`, contiguous, for `[tokens, in]`."""
        if self._versions != (versions := self._now()):
            self._linear.forget()
            self._versions = versions
        y = self._linear.forward(x)
        start = 0
        for name, size in zip(self._names, self.sizes, strict=True):
            layer = getattr(self._parent, name)
            if isinstance(layer, PackedLinear):
                layer.add(spans, x, y[:, start : start + size])
            start += size
        return y

    def _now(self) -> list[int]:
        return [part.weight._version for part in self._parts]


def _depends_on_length(config: Any) -> bool:
    """Sliding windows, and rotary angles that follow the longest position of a pass (dynamic NTK, LongRoPE)."""
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return bool(windows) or scaling.get("rope_type", "default") in ("dynamic", "longrope")


def _base_of(layer: nn.Module) -> FrozenLinear:
    base = layer.base if isinstance(layer, PackedLinear) else layer
    if not isinstance(base, FrozenLinear):
        raise ValueError("a projection that is not frozen")
    return base


def _as_one(parts: Sequence[FrozenLinear]) -> FrozenLinear:
    with_bias = [part.bias is not None for part in parts]
    if any(with_bias) != all(with_bias):
        raise ValueError("projections with and without bias")
    one = nn.Linear(1, 1, bias=False)
    one.in_features, one.out_features = parts[0].in_features, sum(part.out_features for part in parts)
    one.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), requires_grad=False)
    if all(with_bias):
        one.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]), requires_grad=False)
    for part, weight in zip(parts, one.weight.split([part.out_features for part in parts]), strict=True):
        part.weight.data = weight
        part.forget()
    return FrozenLinear(one)


def _normed(x: Tensor, norm: Any) -> Tensor:
    return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _turned(heads: Tensor, cos: Tensor, turn: Tensor) -> Tensor:
    """Rotary position embedding of `[tokens, heads, width]` (arXiv 2104.09864), the halves paired as Llama does."""
    half = heads.shape[-1] // 2
    swapped = torch.cat([heads[..., half:], heads[..., :half]], -1)
    return torch.addcmul(heads * cos, swapped, turn)


_decoders: WeakKeyDictionary[nn.Module, Decoder] = WeakKeyDictionary()
