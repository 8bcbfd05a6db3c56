"""A prefix is the base's alone: its KV has the same bits whatever adapters are there and whatever runs beside it."""

from __future__ import annotations

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.adapters.validation import layers_of_base
from core.base_model.loading import LoadedBase
from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passer, Step
from core.engine.prefix_cache import PrefixCache
from core.engine.rows import Rows
from tests.fixtures.published import TARGETS, random_weights

BLOCK = 8
PROMPT = tuple(range(5, 5 + 3 * BLOCK + 5))


def cache() -> PrefixCache:
    return PrefixCache("sha256:base", 10**6, BLOCK)


@pytest.fixture
def cold(loaded_tiny: LoadedBase) -> PrefixKv:
    """Of a base without any slots."""
    return cache().prefill(loaded_tiny.model, PROMPT, "tenant")[0]


@pytest.fixture
def packed(loaded_tiny: LoadedBase, cold: PrefixKv) -> PackedAdapters:
    """With an adapter in each slot, packed after the cold prefix was computed."""
    packed = PackedAdapters(loaded_tiny.model, TARGETS, 4, 8)
    layers = layers_of_base(loaded_tiny.description.path, TARGETS)
    for slot, rank in ((1, 2), (2, 4), (3, 8)):
        packed.write(slot, random_weights(layers, slot, rank=rank), 2.0)
    return packed


@pytest.mark.parametrize("warm", [0, 1, 2, 3])
@pytest.mark.parametrize("writing", [1, 3, 6])
def test_beside_rows_with_adapters_a_prefix_has_the_bits_that_it_has_without_any(
    loaded_tiny: LoadedBase, cold: PrefixKv, packed: PackedAdapters, writing: int, warm: int
) -> None:
    model, shared = loaded_tiny.model, cache()
    if warm:
        shared.prefill(model, PROMPT[: warm * BLOCK], "tenant")
    passer = Passer(model, packed)
    beside = [passer.running.join([cold], {number % 3 + 1: 1.0}) for number in range(writing)]
    drafts = Rows(model, [PrefixKv.empty(model)] * 2, room=64, adapters=packed, slots=[1, 2], shared=cold)
    prefilling = shared.prefilling(model, PROMPT, "tenant")
    feed = next(prefilling)
    passes = 0
    try:
        while True:
            steps = [Step(row, 7 + passes) for row in beside]
            logits = passer.run([feed, Feed(drafts, [[9], [10]])], steps)
            passes += 1
            feed = prefilling.send(logits[0])
    except StopIteration as end:
        kv, reused = end.value
    assert (reused, passes) == (warm * BLOCK, 4 - warm)
    assert torch.equal(kv.keys, cold.keys)
    assert torch.equal(kv.values, cold.values)


def test_with_adapters_loaded_a_prefix_has_the_bits_that_it_has_without_any(
    loaded_tiny: LoadedBase, cold: PrefixKv, packed: PackedAdapters
) -> None:
    shared = cache()
    for _ in range(2):
        kv, _ = shared.prefill(loaded_tiny.model, PROMPT, "tenant")
        assert torch.equal(kv.keys, cold.keys)
        assert torch.equal(kv.values, cold.values)
    assert packed.layers
