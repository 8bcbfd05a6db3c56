"""How the base attends where the way of `transformers` would cost too much.

- Many rows that begin alike hold the KV of their common start once. The scores against it are one matrix product for
  all rows; only what comes after is per row (the split of Hydragen, arXiv 2402.05099).
- A pass over blocks of rows runs as one sequence of tokens (`core/engine/blocks.py`): each block attends by itself, to
  its own KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from core.engine.blocks import Block
from core.engine.kv import PrefixKv

ATTENTION = "latentbank"
"""The attention implementation of models that can share a start and run several blocks at once."""


def register() -> None:
    """Makes `ATTENTION` known to `transformers`."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def attend_blocks(
    layer: int, query: Tensor, key: Tensor, value: Tensor, *, blocks: Sequence[Block], scale: float
) -> Tensor:
    """`[tokens, heads, width]` for `query` of that shape: the tokens of all blocks, one after the other.

    `key` and `value` `[tokens, kv_heads, width]` are written to the blocks' KV first.
    """
    results, at = [], 0
    for block in blocks:
        rows, width = block.ids.shape
        own = [part[at : at + rows * width].unflatten(0, (rows, width)).transpose(1, 2) for part in (query, key, value)]
        keys, values = block.layers[layer].update(own[1], own[2])
        start = None if block.shared is None else _layer_of(block.shared, layer)
        results.append(attend(own[0], keys, values, block.mask, start, scale).flatten(0, 1))
        at += rows * width
    return results[0] if len(results) == 1 else torch.cat(results)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, start: tuple[Tensor, Tensor] | None, scale: float
) -> Tensor:
    """`[rows, queries, heads, width]` for `query` `[rows, heads, queries, width]`.

    `key` and `value` `[rows, kv_heads, own, width]` are the rows' own, `mask` `[rows, 1, queries, own]` says what a
    query may look at of them; all of `start`, keys and values `[kv_heads, shared, width]`, is seen by every query.
    """
    rows, heads, queries, width = query.shape
    kv_heads, own = key.shape[1], key.shape[2]
    if start is None and queries == 1:
        # The heads that share KV are so many queries to it: it is read once.
        grouped = query.reshape(rows, kv_heads, -1, width)
        result = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
        return result.reshape(rows, 1, heads, width)
    if start is None:
        result = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
        return result.transpose(1, 2)
    grouped = (query * scale).reshape(rows * kv_heads, heads // kv_heads * queries, width)
    to_own = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).view(rows, kv_heads, -1, queries, own)
    scores = to_own.masked_fill_(~mask[:, :, None], -torch.inf).view(rows, kv_heads, -1, own)
    shared = start[0].shape[1]
    across = grouped.view(rows, kv_heads, -1, width).transpose(0, 1).reshape(kv_heads, -1, width)
    to_start = torch.bmm(across, start[0].transpose(1, 2)).view(kv_heads, rows, -1, shared).transpose(0, 1)
    chances = torch.cat([to_start, scores], -1).softmax(-1)
    of_start, of_own = chances.split([shared, own], -1)
    mixed = torch.bmm(of_start.transpose(0, 1).reshape(kv_heads, -1, shared), start[1])
    result = mixed.view(kv_heads, rows, -1, width).transpose(0, 1) + torch.matmul(of_own, value)
    return result.reshape(rows, heads, queries, width).transpose(1, 2)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_start: PrefixKv | None = None,
    blocks: Sequence[Block] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if blocks is not None:
        parts = (part[0].transpose(0, 1) for part in (query, key, value))
        return attend_blocks(module.layer_idx, *parts, blocks=blocks, scale=scale)[None], None
    if shared_start is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    assert attention_mask is not None, "rows that share a start come with their mask"
    return attend(query, key, value, attention_mask, _layer_of(shared_start, module.layer_idx), scale), None


def _layer_of(start: PrefixKv, layer: int) -> tuple[Tensor, Tensor]:
    return start.keys[layer - start.first_layer], start.values[layer - start.first_layer]
