"""Blocks of rows as they enter a forward pass: prompts in chunks, drafts, rows that write, each with its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from core.adapters.packed import Adapted, Span
from core.engine.kv import PrefixKv


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of one width that enter a pass.

    `ids` and `positions` are `[rows, width]`, `mask` `[rows, 1, width, columns]` says what each of them may look at
    once its KV is written to `layers`; all of `shared` comes before. `adapted` names the adapters of the first rows.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    layers: Sequence[CacheLayerMixin]
    shared: PrefixKv | None
    adapted: Adapted | None


def spans_of(blocks: Sequence[Block]) -> list[Span]:
    """Where the adapted rows of the blocks are among the tokens of all, one block after the other."""
    spans, start = [], 0
    for block in blocks:
        rows, width = block.ids.shape
        if block.adapted is not None:
            spans.append(Span(start, len(block.adapted.slots), width, block.adapted))
        start += rows * width
    return spans
