"""One forward pass over blocks of rows.

The tokens of all blocks run as one sequence through the model's linear layers; only attention and the adapters look at
which block and row a token is of. So a pass costs what its tokens cost, whatever they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from core.adapters.packed import routed
from core.engine.attention import ATTENTION, attend_blocks
from core.engine.blocks import Block, spans_of
from core.engine.decoder import decoder_of


def can_run_together(model: Any) -> bool:
    """Whether blocks can share a start and run in one pass with others."""
    return bool(model.config._attn_implementation == ATTENTION)


def alone(model: Any, block: Block, keep: int) -> Tensor:
    """Logits `[rows, keep, vocabulary]` of the last `keep` columns of a block by itself, at least 1."""
    if not torch.is_grad_enabled() and decoder_of(model) is not None:
        return together(model, [block], [keep])[0]
    width = block.ids.shape[1]
    # Given as positions, several columns come out contiguous, and the head is one product for all rows.
    kept = keep if keep == 1 else torch.arange(width - keep, width, device=block.ids.device)
    with routed(spans_of([block])):
        logits: Tensor = model(input_ids=block.ids, logits_to_keep=kept, **_arguments(block)).logits
    return logits


def states_alone(model: Any, block: Block, hidden: Tensor | None = None) -> Tensor:
    """As `alone`, but what the decoder's last layer gives, `[rows, width, hidden]`, without the head.

    `hidden`, of that shape, is what the tokens have become before the first layer that runs.
    """
    given = {"input_ids": block.ids} if hidden is None else {"inputs_embeds": hidden}
    with routed(spans_of([block])):
        states: Tensor = model.get_decoder()(**given, **_arguments(block)).last_hidden_state
    return states


@torch.no_grad()
def together(model: Any, blocks: Sequence[Block], keeps: Sequence[int]) -> list[Tensor]:
    """Logits `[rows, keep, vocabulary]` of the last columns of each block; all of them in one pass.

    Only for models whose attention can do it (`core/engine/install.py`).
    """
    kept, start = [], 0
    for block, keep in zip(blocks, keeps, strict=True):
        rows, width = block.ids.shape
        columns = torch.arange(start, start + rows * width, device=block.ids.device).view(rows, width)
        kept.append(columns[:, width - keep :].flatten())
        start += rows * width
    ids = torch.cat([block.ids.flatten() for block in blocks])
    positions = torch.cat([block.positions.flatten() for block in blocks])
    logits = _logits(model, ids, positions, blocks, torch.cat(kept))
    parts = logits.split([len(part) for part in kept])
    return [
        part.view(block.ids.shape[0], keep, -1) if keep else part[None]
        for part, block, keep in zip(parts, blocks, keeps, strict=True)
    ]


def _logits(model: Any, ids: Tensor, positions: Tensor, blocks: Sequence[Block], kept: Tensor) -> Tensor:
    """`[len(kept), vocabulary]`, of these tokens among all."""
    decoder = decoder_of(model)
    if decoder is not None:
        states = decoder(ids, positions, spans_of(blocks), partial(attend_blocks, blocks=blocks, scale=decoder.scale))
        logits: Tensor = decoder.head(states[kept])
        return logits
    given = {
        "input_ids": ids[None],
        "position_ids": positions[None],
        # What each token may look at is its block's to say; four dimensions are passed on as they are.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device),
        "use_cache": False,
        "blocks": blocks,
    }
    with routed(spans_of(blocks)):
        if len(kept):
            logits = model(**given, logits_to_keep=kept).logits[0]
        else:
            model.get_decoder()(**given)
            logits = torch.zeros(0, model.config.vocab_size, dtype=model.dtype, device=model.device)
    return logits


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
