from __future__ import annotations

import threading

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passer
from core.engine.prefix_cache import PrefixCache
from core.engine.rows import Rows

BLOCK = 8
BLOCK_BYTES = BLOCK * 2 * 2 * 2 * 16 * 4
"""Keys and values of the tiny Llama: 2 layers, 2 heads, 16 wide, in fp32."""
PROMPT = tuple(range(5, 5 + 3 * BLOCK + 5))


def cache(blocks: int = 64, base: str = "sha256:base") -> PrefixCache:
    return PrefixCache(base, blocks * BLOCK_BYTES, BLOCK)


def same_bits(one: PrefixKv, other: PrefixKv) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def test_a_warm_prefix_has_the_bits_of_a_cold_one(loaded_tiny: LoadedBase) -> None:
    warm = cache()
    cold, reused_cold = warm.prefill(loaded_tiny.model, PROMPT, "tenant")
    again, reused_again = warm.prefill(loaded_tiny.model, PROMPT, "tenant")
    assert (reused_cold, reused_again) == (0, 3 * BLOCK)
    assert len(cold) == len(PROMPT)
    assert same_bits(cold, again)


@pytest.mark.parametrize("shared", [0, 3, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_prefix_warmed_by_another_prompt_has_the_bits_of_a_cold_one(loaded_tiny: LoadedBase, shared: int) -> None:
    warm = cache()
    warm.prefill(loaded_tiny.model, (*PROMPT[:shared], *[200] * 50), "tenant")
    kv, reused = warm.prefill(loaded_tiny.model, PROMPT, "tenant")
    assert reused == shared // BLOCK * BLOCK
    assert same_bits(kv, cache().prefill(loaded_tiny.model, PROMPT, "tenant")[0])


def test_the_cache_computes_what_rows_compute_block_by_block(loaded_tiny: LoadedBase) -> None:
    kv = PrefixKv.empty(loaded_tiny.model)
    for start in range(0, len(PROMPT), BLOCK):
        rows = Rows(loaded_tiny.model, [kv], room=BLOCK)
        Passer(loaded_tiny.model).run([Feed(rows, [PROMPT[start : start + BLOCK]], keep=0)], [])
        kv = rows.kv(0)
    assert same_bits(cache().prefill(loaded_tiny.model, PROMPT, "tenant")[0], kv)


def test_a_prefix_has_the_same_bits_with_any_adapter_loaded(loaded_tiny: LoadedBase) -> None:
    before, _ = cache().prefill(loaded_tiny.model, PROMPT, "tenant")
    adapters = PackedAdapters(loaded_tiny.model, ("gate_proj", "up_proj", "down_proj", "q_proj", "v_proj"), 4, 8)
    packed, _ = cache().prefill(loaded_tiny.model, PROMPT, "tenant")
    for layer in adapters.layers.values():
        layer.a.data[1:].normal_()
        layer.b.data[1:].normal_()
        layer.scale[1:] = 2.0
    loaded, _ = cache().prefill(loaded_tiny.model, PROMPT, "tenant")
    assert same_bits(before, packed)
    assert same_bits(before, loaded)


def test_a_tenant_never_meets_a_block_of_another(loaded_tiny: LoadedBase) -> None:
    shared = cache()
    shared.prefill(loaded_tiny.model, PROMPT, "tenant_a")
    assert shared.prefill(loaded_tiny.model, PROMPT, "tenant_b")[1] == 0
    assert shared.prefill(loaded_tiny.model, PROMPT, "tenant_a")[1] == 3 * BLOCK
    assert shared.stats.blocks == 6


def test_salt_and_base_can_not_be_confused_by_where_one_ends(loaded_tiny: LoadedBase) -> None:
    keys = {
        tuple(PrefixCache(base, 4, BLOCK)._keys(PROMPT, salt))
        for base, salt in (("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""))
    }
    assert len(keys) == 4


def test_equal_blocks_after_different_beginnings_are_different_blocks(loaded_tiny: LoadedBase) -> None:
    warm = cache()
    block = (7,) * BLOCK
    warm.prefill(loaded_tiny.model, (*[9] * BLOCK, *block), "tenant")
    kv, reused = warm.prefill(loaded_tiny.model, (*block, *block), "tenant")
    assert reused == 0
    assert not torch.equal(kv.keys[:, :, :BLOCK], kv.keys[:, :, BLOCK:])


def test_only_whole_blocks_are_kept_and_an_empty_prompt_is_no_trouble(loaded_tiny: LoadedBase) -> None:
    warm = cache()
    assert len(warm.prefill(loaded_tiny.model, (), "tenant")[0]) == 0
    warm.prefill(loaded_tiny.model, PROMPT[: BLOCK - 1], "tenant")
    assert warm.stats.blocks == 0
    kv, reused = warm.prefill(loaded_tiny.model, PROMPT[: 2 * BLOCK], "tenant")
    assert (len(kv), reused, warm.stats.blocks) == (2 * BLOCK, 0, 2)
    assert warm.prefill(loaded_tiny.model, PROMPT[: 2 * BLOCK], "tenant")[1] == 2 * BLOCK


def test_the_least_recently_used_chain_goes_first_and_from_its_tail(loaded_tiny: LoadedBase) -> None:
    small = cache(blocks=4)
    first, second, third = ((token,) * (2 * BLOCK) for token in (11, 12, 13))
    small.prefill(loaded_tiny.model, first, "tenant")
    small.prefill(loaded_tiny.model, second, "tenant")
    small.prefill(loaded_tiny.model, first, "tenant")
    small.prefill(loaded_tiny.model, third[:BLOCK], "tenant")
    assert small.stats.blocks == 4
    assert small.stats.evictions == 1
    assert small.prefill(loaded_tiny.model, second[:BLOCK], "tenant")[1] == BLOCK
    assert small.prefill(loaded_tiny.model, first, "tenant")[1] == 2 * BLOCK


def test_an_evicted_prefix_comes_back_with_the_same_bits(loaded_tiny: LoadedBase) -> None:
    small = cache(blocks=2)
    before, _ = small.prefill(loaded_tiny.model, PROMPT, "tenant")
    small.prefill(loaded_tiny.model, (99,) * (4 * BLOCK), "tenant")
    after, reused = small.prefill(loaded_tiny.model, PROMPT, "tenant")
    assert reused == 0
    assert same_bits(before, after)
    assert small.prefill(loaded_tiny.model, PROMPT, "tenant")[1] == 2 * BLOCK


def test_the_budget_is_in_bytes_and_never_exceeded(loaded_tiny: LoadedBase) -> None:
    nearly = PrefixCache("sha256:base", 3 * BLOCK_BYTES - 1, BLOCK)
    for token in (11, 12, 13):
        nearly.prefill(loaded_tiny.model, (token,) * (2 * BLOCK), "tenant")
        assert (nearly.stats.blocks, nearly.stats.bytes) == (2, 2 * BLOCK_BYTES)
    assert nearly.stats.max_bytes == 3 * BLOCK_BYTES - 1


def test_a_prefix_larger_than_the_budget_is_served_and_its_head_kept(loaded_tiny: LoadedBase) -> None:
    small = cache(blocks=1)
    kv, _ = small.prefill(loaded_tiny.model, PROMPT, "tenant")
    assert same_bits(kv, cache().prefill(loaded_tiny.model, PROMPT, "tenant")[0])
    assert (small.stats.blocks, small.stats.evictions) == (1, 0)
    assert small.prefill(loaded_tiny.model, PROMPT, "tenant")[1] == BLOCK


def test_a_cache_of_no_blocks_still_computes(loaded_tiny: LoadedBase) -> None:
    none = cache(blocks=0)
    assert none.prefill(loaded_tiny.model, PROMPT, "tenant")[1] == 0
    assert none.prefill(loaded_tiny.model, PROMPT, "tenant")[1] == 0
    assert (none.stats.blocks, none.stats.usage) == (0, 0.0)


def test_stats_count_tokens_asked_for_and_tokens_found(loaded_tiny: LoadedBase) -> None:
    warm = cache()
    warm.prefill(loaded_tiny.model, PROMPT, "tenant")
    warm.prefill(loaded_tiny.model, PROMPT, "tenant")
    stats = warm.stats
    assert (stats.queries, stats.hits) == (2 * len(PROMPT), 3 * BLOCK)
    assert (stats.blocks, stats.usage) == (3, 3 / 64)
    warm.clear()
    assert (warm.stats.blocks, warm.stats.bytes) == (0, 0)
    assert warm.prefill(loaded_tiny.model, PROMPT, "tenant")[1] == 0


def test_threads_share_a_cache_without_losing_count_or_bits(loaded_tiny: LoadedBase) -> None:
    shared, alone = cache(blocks=5), cache()
    prompts = [(*PROMPT[: i * 4], *[100 + i] * 10) for i in range(6)]
    expected = [alone.prefill(loaded_tiny.model, prompt, "tenant")[0] for prompt in prompts]
    wrong: list[int] = []

    def ask(start: int) -> None:
        for i in [*range(start, 6), *range(start)]:
            kv, _ = shared.prefill(loaded_tiny.model, prompts[i], "tenant")
            if not same_bits(kv, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert shared.stats.blocks <= 5
    assert shared.stats.queries == 3 * sum(len(prompt) for prompt in prompts)


def test_what_is_forgotten_goes_by_its_salt_and_nothing_else(loaded_tiny: LoadedBase) -> None:
    shared = cache()
    for salt in ("tenant", "tenant/text", "tenant/other"):
        shared.prefill(loaded_tiny.model, PROMPT, salt)
    assert shared.salts == {"tenant", "tenant/text", "tenant/other"}
    shared.forget("tenant/text")
    assert shared.salts == {"tenant", "tenant/other"}
    assert (shared.stats.blocks, shared.stats.bytes) == (6, 6 * BLOCK_BYTES)
    assert shared.prefill(loaded_tiny.model, PROMPT, "tenant/text")[1] == 0
    assert shared.prefill(loaded_tiny.model, PROMPT, "tenant")[1] == 3 * BLOCK
    shared.forget("nobody")
    assert shared.stats.blocks == 9
