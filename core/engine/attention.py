"""How the base attends where the way of `transformers` would cost too much.

- Many rows that begin alike hold the KV of their common start once. The scores against it are one matrix product for
  all rows; only what comes after is per row (the split of Hydragen, arXiv 2402.05099).
- A pass over blocks of rows runs as one sequence of tokens (`core/engine/blocks.py`): each block attends by itself, to
  its own KV.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from core.engine.blocks import ATTENTION, Block, alone, together
from core.engine.kv import PrefixKv


def install(model: Any) -> bool:
    """Lets `model` share starts and run blocks together; whether it can. One that can't is left as it was."""
    before = model.config._attn_implementation
    if before != "sdpa":
        return False
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    try:
        model.set_attn_implementation(ATTENTION)
        works = model.config._attn_implementation == ATTENTION and _agrees(model)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        works = False
    if not works:
        model.set_attn_implementation(before)
    return works


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, start: tuple[Tensor, Tensor] | None, scale: float
) -> Tensor:
    """`[rows, queries, heads, width]` for `query` `[rows, heads, queries, width]`.

    `key` and `value` `[rows, kv_heads, own, width]` are the rows' own, `mask` `[rows, 1, queries, own]` says what a
    query may look at of them; all of `start`, keys and values `[kv_heads, shared, width]`, is seen by every query.
    """
    rows, heads, queries, width = query.shape
    kv_heads, own = key.shape[1], key.shape[2]
    grouped = (query * scale).reshape(rows * kv_heads, heads // kv_heads * queries, width)
    to_own = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).view(rows, kv_heads, -1, queries, own)
    scores = to_own.masked_fill_(~mask[:, :, None], -torch.inf).view(rows, kv_heads, -1, own)
    if start is None:
        result = torch.bmm(scores.softmax(-1).flatten(0, 1), value.flatten(0, 1))
        return result.view(rows, heads, queries, width).transpose(1, 2)
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
    blocks: tuple[Block, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if blocks is not None:
        return _in_blocks(module.layer_idx, query[0], key[0], value[0], blocks, scale), None
    if shared_start is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    assert attention_mask is not None, "rows that share a start come with their mask"
    return attend(query, key, value, attention_mask, _layer_of(shared_start, module.layer_idx), scale), None


def _in_blocks(
    layer: int, query: Tensor, key: Tensor, value: Tensor, blocks: tuple[Block, ...], scale: float
) -> Tensor:
    """`[1, tokens, heads, width]` for `[heads, tokens, width]`: the tokens of all blocks, one after the other."""
    results, at = [], 0
    for block in blocks:
        rows, width = block.ids.shape
        own = [
            part[:, at : at + rows * width].unflatten(1, (rows, width)).transpose(0, 1) for part in (query, key, value)
        ]
        keys, values = block.layers[layer].update(own[1], own[2])
        start = None if block.shared is None else _layer_of(block.shared, layer)
        results.append(attend(own[0], keys, values, block.mask, start, scale).flatten(0, 1))
        at += rows * width
    return torch.cat(results)[None]


def _layer_of(start: PrefixKv, layer: int) -> tuple[Tensor, Tensor]:
    return start.keys[layer - start.first_layer], start.values[layer - start.first_layer]


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether the model hands starts and blocks on to its attention, and then says what it says without them."""
    from core.engine.rows import Rows, prefill

    ids = list(range(3, 11))
    (start,) = prefill(model, [ids[:5]])
    nothing = PrefixKv.empty(model)

    def rows(shared: bool) -> Block:
        given = {"prefixes": [nothing, nothing], "shared": start} if shared else {"prefixes": [start, start]}
        return Rows(model, room=3, **given).enter([ids[5:], ids[6:]])

    whole = alone(model, rows(shared=False), 1)
    found = [alone(model, rows(shared=True), 1), *together(model, [rows(True), rows(False)], [1, 1])]
    return all(torch.allclose(one.float(), whole.float(), rtol=1e-3, atol=1e-2) for one in found)
