"""Part of a model's layers: what comes before the first adapted layer never changes while adapters are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def only_layers(model: Any, start: int, end: int | None = None) -> Iterator[None]:
    """Within it the decoder is its layers `start` to `end`; its final norm is left out where `end` is earlier."""
    decoder = model.get_decoder()
    layers, norm = decoder.layers, decoder.norm
    end = len(layers) if end is None else end
    decoder.layers = nn.ModuleList(layers[start:end])
    decoder.norm = norm if end == len(layers) else nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = layers, norm


@torch.no_grad()
def can_be_split(model: Any, at: int) -> bool:
    """Whether layers before and from `at` on, run one after the other, and the bare head give the model's own logits.

    Plain decoders do (Llama, Mistral, Qwen); ones that scale embeddings or logits outside their layers do not.
    """
    ids = torch.arange(3, 9, device=model.device)[None]
    try:
        whole = model(input_ids=ids, use_cache=False).logits
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        with only_layers(model, 0, at):
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
        with only_layers(model, at):
            hidden = decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
        parts = nn.functional.linear(hidden, head.weight, head.bias)
    except (AttributeError, TypeError, IndexError, RuntimeError):
        return False
    return bool(torch.allclose(parts.float(), whole.float(), rtol=1e-3, atol=1e-2))
