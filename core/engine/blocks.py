"""One forward pass over blocks of rows: prompts in chunks, drafts, and rows that write, each with its adapters.

The tokens of all blocks run as one sequence through the model's linear layers; only attention and the adapters look at
which block and row a token is of. So a pass costs what its tokens cost, whatever they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from core.adapters.packed import Adapted, Span, routed
from core.engine.kv import PrefixKv

ATTENTION = "latentbank"
"""The attention implementation of models that can share a start and run several blocks at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of one width that enter a pass.

    `ids` and `positions` are `[rows, width]`, `mask` `[rows, 1, width, columns]` says what each of them may look at
    once its KV is written to `layers`; all of `shared` comes before. `adapted` names each row's adapter.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    layers: Sequence[CacheLayerMixin]
    shared: PrefixKv | None
    adapted: Adapted | None


def can_run_together(model: Any) -> bool:
    """Whether blocks can share a start and run in one pass with others."""
    return bool(model.config._attn_implementation == ATTENTION)


def alone(model: Any, block: Block, keep: int) -> Tensor:
    """Logits `[rows, keep, vocabulary]` of the last `keep` columns of a block by itself, at least 1."""
    width = block.ids.shape[1]
    # Given as positions, several columns come out contiguous, and the head is one product for all rows.
    kept = keep if keep == 1 else torch.arange(width - keep, width, device=block.ids.device)
    with routed(_spans([block])):
        logits: Tensor = model(input_ids=block.ids, logits_to_keep=kept, **_arguments(block)).logits
    return logits


def states_alone(model: Any, block: Block, hidden: Tensor | None = None) -> Tensor:
    """As `alone`, but what the decoder's last layer gives, `[rows, width, hidden]`, without the head.

    `hidden`, of that shape, is what the tokens have become before the first layer that runs.
    """
    given = {"input_ids": block.ids} if hidden is None else {"inputs_embeds": hidden}
    with routed(_spans([block])):
        states: Tensor = model.get_decoder()(**given, **_arguments(block)).last_hidden_state
    return states


@torch.no_grad()
def together(model: Any, blocks: Sequence[Block], keeps: Sequence[int]) -> list[Tensor]:
    """Logits `[rows, keep, vocabulary]` of the last columns of each block; all of them in one pass.

    Only for models whose attention can do it (`core/engine/attention.py: install`).
    """
    kept, start = [], 0
    for block, keep in zip(blocks, keeps, strict=True):
        rows, width = block.ids.shape
        columns = torch.arange(start, start + rows * width, device=block.ids.device).view(rows, width)
        kept.append(columns[:, width - keep :].flatten())
        start += rows * width
    given = {
        "input_ids": torch.cat([block.ids.flatten() for block in blocks])[None],
        "position_ids": torch.cat([block.positions.flatten() for block in blocks])[None],
        # What each token may look at is its block's to say; four dimensions are passed on as they are.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device),
        "use_cache": False,
        "blocks": tuple(blocks),
    }
    index = torch.cat(kept)
    with routed(_spans(blocks)):
        if len(index):
            logits = model(**given, logits_to_keep=index).logits[0]
        else:
            model.get_decoder()(**given)
            logits = torch.zeros(0, model.config.vocab_size, dtype=model.dtype, device=model.device)
    parts = logits.split([len(part) for part in kept])
    return [
        part.view(block.ids.shape[0], keep, -1) if keep else part[None]
        for part, block, keep in zip(parts, blocks, keeps, strict=True)
    ]


def _arguments(block: Block) -> Mapping[str, Any]:
    """A block by itself as a `transformers` model takes it, without its tokens."""
    sharing = {} if block.shared is None else {"shared_start": block.shared}
    return {
        **sharing,
        "attention_mask": block.mask,
        "position_ids": block.positions,
        "past_key_values": Cache(layers=list(block.layers)),
        "use_cache": True,
    }


def _spans(blocks: Sequence[Block]) -> list[Span]:
    spans, start = [], 0
    for block in blocks:
        rows, width = block.ids.shape
        if block.adapted is not None:
            spans.append(Span(start, rows, width, block.adapted))
        start += rows * width
    return spans
