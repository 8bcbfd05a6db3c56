"""What a model gets when it is loaded: our attention and our forward pass, where they say what its own say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.base_model.frozen import FrozenLinear
from core.engine import decoder
from core.engine.attention import ATTENTION, register
from core.engine.blocks import Block
from core.engine.forward import alone, together
from core.engine.kv import PrefixKv
from core.engine.rows import Rows, prefill

_OTHERWISE_BUILT = (AttributeError, TypeError, ValueError, RuntimeError)
FULL, HALF = 1e-3, 3e-2
"""How far the logits may be off, as a share of them, in full and in half precision."""
_IDS = list(range(3, 11))


def install(model: Any, *, frozen: bool = False) -> bool:
    """Lets `model` share starts and run blocks together; whether it can. One that can't is left as it was.

    `frozen` where the model has all its weights here and none of them will change.
    """
    before = model.config._attn_implementation
    if before != "sdpa":
        return False
    register()
    try:
        expected = _with_copies(model)
        model.set_attn_implementation(ATTENTION)
        works = model.config._attn_implementation == ATTENTION and _agrees(model, expected)
    except _OTHERWISE_BUILT:
        works = False
    if not works:
        model.set_attn_implementation(before)
    elif frozen:
        _install_decoder(model, expected)
    return works


def _forget_packed(model: Any) -> None:
    """What the trials packed of layers by themselves, which run as one from now on."""
    for module in model.modules():
        if isinstance(module, FrozenLinear):
            module.forget()


def _install_decoder(model: Any, expected: Tensor) -> None:
    try:
        decoder.adopt(model)
        works = _agrees(model, expected)
    except _OTHERWISE_BUILT:
        works = False
    if not works:
        decoder.abandon(model)
    _forget_packed(model)


@torch.no_grad()
def _agrees(model: Any, expected: Tensor) -> bool:
    """Whether the model, given starts and blocks, says what it says without them."""
    found = [
        alone(model, _block(model, shared=True), 1),
        *together(model, [_block(model, shared=True), _block(model, shared=False)], [1, 1]),
    ]
    tolerance = FULL if expected.dtype == torch.float32 else HALF
    return all(bool(torch.dist(one, expected) < tolerance * expected.norm()) for one in found)


@torch.no_grad()
def _with_copies(model: Any) -> Tensor:
    return alone(model, _block(model, shared=False), 1)


def _block(model: Any, *, shared: bool) -> Block:
    """Two rows that begin alike and go on for three tokens and for two."""
    (start,) = prefill(model, [_IDS[:5]])
    nothing = PrefixKv.empty(model)
    given: dict[str, Any] = (
        {"prefixes": [nothing, nothing], "shared": start} if shared else {"prefixes": [start, start]}
    )
    return Rows(model, room=3, **given).enter([_IDS[5:], _IDS[6:]])
