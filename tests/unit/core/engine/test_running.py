"""Rows that write together write what each writes alone, whoever joins and leaves."""

from __future__ import annotations

import random

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine import running as running_module
from core.engine.forward import alone
from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passer, Step
from core.engine.rows import Rows, prefill
from core.engine.running import RunningRows

MIXES = [{}, {1: 1.0}, {2: 1.0}, {3: 1.0}, {1: 1.0, 2: 0.5}]


def _tokens(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(3, 250), k=count)


def _kv(base: LoadedBase, tokens: list[int]) -> PrefixKv:
    return prefill(base.model, [tokens])[0] if tokens else PrefixKv.empty(base.model)


def _alone(
    base: LoadedBase, adapters: PackedAdapters, prompt: list[int], mix: dict[int, float], count: int
) -> list[int]:
    """Greedy tokens of one row by itself, through `Rows`."""
    rows = Rows(base.model, [_kv(base, prompt[:-1])], room=count + 1, adapters=adapters, mixes=[mix])
    written, token = [], prompt[-1]
    for _ in range(count):
        token = int(rows.feed([[token]])[0, -1].argmax())
        written.append(token)
    return written


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_and_go_write_what_each_writes_alone(
    loaded_tiny: LoadedBase, adapters: PackedAdapters, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(running_module, "SPARE_COLUMNS", 5)
    chance = random.Random(seed)
    passer = Passer(loaded_tiny.model, adapters)
    plans = [
        (_tokens(100 * seed + i, chance.choice([1, 2, 9, 40])), MIXES[chance.randrange(5)], chance.randint(1, 12))
        for i in range(12)
    ]
    expected = [_alone(loaded_tiny, adapters, prompt, mix, count) for prompt, mix, count in plans]
    waiting, writing, written = list(range(12)), {}, {i: [] for i in range(12)}
    while waiting or writing:
        while waiting and (not writing or chance.random() < 0.5):
            i = waiting.pop()
            prompt, mix, _ = plans[i]
            kv = _kv(loaded_tiny, prompt[:-1])
            half = len(kv) // 2
            writing[i] = (passer.running.join([kv.cut(0, half), kv.cut(half, len(kv))], mix), prompt[-1])
        order = list(writing)
        chance.shuffle(order)
        logits = passer.run([], [Step(*writing[i]) for i in order])
        for i, row in zip(order, logits, strict=True):
            written[i].append(int(row.argmax()))
            writing[i] = (writing[i][0], written[i][-1])
            if len(written[i]) == plans[i][2]:
                passer.running.leave(writing.pop(i)[0])
    assert [written[i] for i in range(12)] == expected
    assert len(passer.running) == 0


def test_prompts_drafts_and_writing_rows_share_a_pass_and_say_what_each_says_alone(
    loaded_tiny: LoadedBase, adapters: PackedAdapters
) -> None:
    model = loaded_tiny.model
    start, other = prefill(model, [_tokens(1, 30), _tokens(2, 11)])
    nothing = PrefixKv.empty(model)

    def feeds() -> list[Feed]:
        chunk = Rows(model, [start], room=20)
        drafts = Rows(model, [nothing] * 3, room=8, adapters=adapters, slots=[1, 3, 0], shared=other)
        uneven = Rows(model, [start, other], room=8, adapters=adapters, mixes=[{2: 1.0}, {1: 1.0, 3: 0.5}])
        return [
            Feed(chunk, [_tokens(3, 20)], keep=0),
            Feed(drafts, [_tokens(4, 4)] * 3),
            Feed(uneven, [_tokens(5, 6), _tokens(6, 2)], keep=2),
        ]

    def running(passer: Passer) -> list[Step]:
        return [Step(passer.running.join([other], mix), 7) for mix in MIXES]

    together, apart = Passer(model, adapters), Passer(model, adapters)
    found = together.run(feeds(), running(together))
    alone = [apart.run([feed], [])[0] for feed in feeds()]
    alone += apart.run([], running(apart))
    assert [part.shape for part in found] == [part.shape for part in alone]
    for one, two in zip(found, alone, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    plain = Rows(model, [other], room=8, adapters=adapters, slots=[3]).feed([_tokens(4, 4)])
    torch.testing.assert_close(found[1][1], plain[0], rtol=1e-4, atol=1e-4)


def test_a_model_with_an_attention_of_its_own_writes_the_same_one_block_after_the_other(
    loaded_tiny: LoadedBase, adapters: PackedAdapters
) -> None:
    model = loaded_tiny.model
    (start,) = prefill(model, [_tokens(1, 30)])

    def both() -> list[torch.Tensor]:
        passer = Passer(model, adapters)
        chunk = Feed(Rows(model, [start], room=20), [_tokens(3, 20)])
        return passer.run([chunk], [Step(passer.running.join([start], mix), 7) for mix in MIXES])

    expected = both()
    model.set_attn_implementation("sdpa")
    for one, two in zip(both(), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_every_running_row_takes_part_in_a_pass(loaded_tiny: LoadedBase) -> None:
    passer = Passer(loaded_tiny.model)
    rows = [passer.running.join([PrefixKv.empty(loaded_tiny.model)], {}) for _ in range(2)]
    with pytest.raises(AssertionError, match="every running row"):
        passer.run([], [Step(rows[0], 5)])


def test_of_a_row_that_left_nothing_stays(loaded_tiny: LoadedBase, adapters: PackedAdapters) -> None:
    running = RunningRows(loaded_tiny.model, adapters)
    rows = [
        running.join([_kv(loaded_tiny, _tokens(i, 6))], mix) for i, mix in enumerate(({1: 1.0}, {3: 1.0}, {2: 1.0}))
    ]
    with torch.no_grad():
        alone(loaded_tiny.model, running.enter({row: 5 for row in rows}), 1)
    held = [pair for pair in running._adapted._gathered.values() if pair]
    assert held
    running.leave(rows[0])
    for tensor in (*(tensor for pair in held for tensor in pair), *_by_row(running)):
        assert not tensor[2:].any()
    for row in rows[1:]:
        running.leave(row)
    assert running._adapted is None
    assert not any(tensor.any() for tensor in _by_row(running))
    running.leave(rows[0])


def test_others_pay_for_a_sum_of_adapters_only_while_it_is_there(
    loaded_tiny: LoadedBase, adapters: PackedAdapters
) -> None:
    running = RunningRows(loaded_tiny.model, adapters)
    one = running.join([_kv(loaded_tiny, _tokens(0, 6))], {1: 1.0})
    two = running.join([_kv(loaded_tiny, _tokens(1, 6))], {1: 1.0, 2: 0.5})
    assert running.enter({one: 5, two: 6}).adapted.slots.shape == (2, 2)
    running.leave(two)
    assert running.enter({one: 5}).adapted.slots.shape == (1, 1)


def _by_row(running: RunningRows) -> list[torch.Tensor]:
    return [part.transpose(0, 1) for part in (running._keys, running._values)]
