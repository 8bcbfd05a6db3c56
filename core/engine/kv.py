"""Key-value states of a token sequence, and the caches that `transformers` models write to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True, slots=True, eq=False)
class PrefixKv:
    """KV of one sequence: `keys` and `values` are `[layers, kv_heads, tokens, head_dim]`. Read-only.

    They are of all layers, or of those from `first_layer` on.
    """

    keys: Tensor
    values: Tensor
    first_layer: int = 0

    def __len__(self) -> int:
        return int(self.keys.shape[2])

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @staticmethod
    def empty(model: Any) -> PrefixKv:
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        nothing = torch.zeros(config.num_hidden_layers, heads, 0, width, dtype=model.dtype, device=model.device)
        return PrefixKv(nothing, nothing)

    @staticmethod
    def join(parts: Sequence[PrefixKv]) -> PrefixKv:
        if len(parts) == 1:
            return parts[0]
        keys, values = torch.cat([p.keys for p in parts], 2), torch.cat([p.values for p in parts], 2)
        return PrefixKv(keys, values, parts[0].first_layer)

    def layers_from(self, first: int) -> PrefixKv:
        """A copy of the layers from `first` on."""
        return PrefixKv(self.keys[first:].clone(), self.values[first:].clone(), first) if first else self

    def cut(self, start: int, end: int) -> PrefixKv:
        """A copy of tokens `start` to `end`, which keeps nothing else alive."""
        return PrefixKv(self.keys[:, :, start:end].clone(), self.values[:, :, start:end].clone())


class _PreallocatedLayer(CacheLayerMixin):
    """One layer of a batch: `[rows, kv_heads, width, head_dim]`, filled up to `used`."""

    def __init__(self, keys: Tensor, values: Tensor, used: int) -> None:
        super().__init__()
        self.keys, self.values, self.used = keys, values, used
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and key_states.requires_grad:
            # Training feeds once: the gradient needs tensors that nobody writes into.
            return (
                torch.cat([self.keys[:, :, : self.used], key_states], 2),
                torch.cat([self.values[:, :, : self.used], value_states], 2),
            )
        end = self.used + key_states.shape[2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


def batch_cache(prefixes: Sequence[PrefixKv], room: int) -> Cache:
    """A cache of one row per prefix, right-aligned on the longest, with room for `room` more tokens."""
    longest = max(len(prefix) for prefix in prefixes)
    layers, heads, _, width = prefixes[0].keys.shape
    shape = (layers, len(prefixes), heads, longest + room, width)
    keys = prefixes[0].keys.new_zeros(shape)
    values = prefixes[0].values.new_zeros(shape)
    for row, prefix in enumerate(prefixes):
        start = longest - len(prefix)
        keys[:, row, :, start:longest] = prefix.keys
        values[:, row, :, start:longest] = prefix.values
    # Layers are found by their number in the model; nothing asks for the KV of those that do not run.
    absent = [_PreallocatedLayer(keys[0, :, :, :0], values[0, :, :, :0], longest)] * prefixes[0].first_layer
    return Cache(layers=[*absent, *(_PreallocatedLayer(keys[i], values[i], longest) for i in range(layers))])
