"""Attention of many rows that begin alike: the KV of their common start is held once and read by all of them.

The scores against the start are one matrix product for all rows; only what comes after it is per row (the split of
Hydragen, arXiv 2402.05099). A document's KV is then neither copied per question nor moved when rows leave a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from core.engine.kv import PrefixKv

NAME = "latentbank_shared_start"
"""The attention implementation of models that can share a start."""


def install(model: Any) -> bool:
    """Lets `model` attend to shared starts; whether it can. One that can't is left as it was."""
    before = model.config._attn_implementation
    if before != "sdpa":
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        model.set_attn_implementation(NAME)
        works = model.config._attn_implementation == NAME and _agrees(model)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        works = False
    if not works:
        model.set_attn_implementation(before)
    return works


def can_share(model: Any) -> bool:
    return bool(model.config._attn_implementation == NAME)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, start: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """`[rows, queries, heads, width]` for `query` `[rows, heads, queries, width]`.

    `key` and `value` `[rows, kv_heads, own, width]` are the rows' own, `mask` `[rows, 1, queries, own]` says what a
    query may look at of them; all of `start`, keys and values `[kv_heads, shared, width]`, is seen by every query.
    """
    rows, heads, queries, width = query.shape
    kv_heads, shared, _ = start[0].shape
    grouped = (query * scale).reshape(rows, kv_heads, heads // kv_heads * queries, width)
    across = grouped.transpose(0, 1).reshape(kv_heads, -1, width)
    to_start = torch.bmm(across, start[0].transpose(1, 2)).view(kv_heads, rows, -1, shared).transpose(0, 1)
    to_own = torch.matmul(grouped, key.transpose(2, 3)).view(rows, kv_heads, -1, queries, key.shape[2])
    to_own = to_own.masked_fill(~mask[:, :, None], -torch.inf).flatten(2, 3)
    chances = torch.cat([to_start, to_own], -1).softmax(-1)
    of_start, of_own = chances.split([shared, key.shape[2]], -1)
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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if shared_start is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    assert attention_mask is not None, "rows that share a start come with their mask"
    layer = module.layer_idx - shared_start.first_layer
    start = shared_start.keys[layer], shared_start.values[layer]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, attention_mask, start, scale), None


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether the model hands a shared start on to its attention, and then says what it says of the whole."""
    from core.engine.rows import Rows, prefill

    ids = list(range(3, 11))
    (start,) = prefill(model, [ids[:5]])
    nothing = PrefixKv.empty(model)
    shared = Rows(model, [nothing, nothing], room=3, shared=start).feed([ids[5:], ids[6:]])
    whole = Rows(model, [start, start], room=3).feed([ids[5:], ids[6:]])
    return bool(torch.allclose(shared.float(), whole.float(), rtol=1e-3, atol=1e-2))
