from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.kv import PrefixKv
from core.engine.rows import Rows, prefill

QUESTIONS = ("Hi", "What is the capital of Orsk, if you please?", "Name three ports.")
TARGETS = ("gate_proj", "up_proj", "down_proj")
LENGTH = 12


def alone(base: LoadedBase, question: str) -> list[int]:
    """What plain `transformers` answers, greedily."""
    prompt = base.chat.ask(question)
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    made = base.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False)
    answer: list[int] = made[0, ids.shape[1] :].tolist()
    return answer


def greedy(rows: Rows, logits: Tensor, steps: int = LENGTH) -> list[list[int]]:
    made: list[list[int]] = []
    for _ in range(steps):
        made.append(logits[:, -1].argmax(-1).tolist())
        logits = rows.feed([[token] for token in made[-1]])
    return [list(row) for row in zip(*made, strict=True)]


def opened(base: LoadedBase, questions: Sequence[str] = QUESTIONS, room: int = 64) -> tuple[Rows, Tensor]:
    prompts = [base.chat.ask(question) for question in questions]
    rows = Rows(base.model, prefill(base.model, [prompt.prefix for prompt in prompts]), room=room)
    return rows, rows.feed([prompt.activation for prompt in prompts])


def loaded(base: LoadedBase, seed: int = 0, strength: float = 0.5) -> PackedAdapters:
    adapters = PackedAdapters(base.model, TARGETS, slots=4, rank=4)
    generator = torch.Generator().manual_seed(seed)
    for slot in (1, 2):
        weights = {
            name: (
                torch.randn(4, layer.a.shape[2], generator=generator) * layer.a.shape[2] ** -0.5,
                torch.randn(layer.b.shape[1], 4, generator=generator) * strength,
            )
            for name, layer in adapters.layers.items()
        }
        adapters.write(slot, weights, scale=1.0)
    return adapters


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def test_a_mixed_batch_answers_as_transformers_does_for_each_prompt_alone(loaded_tiny: LoadedBase) -> None:
    rows, logits = opened(loaded_tiny)
    for made, question in zip(greedy(rows, logits), QUESTIONS, strict=True):
        expected = alone(loaded_tiny, question)
        assert made[: len(expected)] == expected


def test_logits_are_those_of_one_plain_forward_pass(loaded_tiny: LoadedBase) -> None:
    prompts = [loaded_tiny.chat.ask(question) for question in QUESTIONS]
    rows = Rows(loaded_tiny.model, prefill(loaded_tiny.model, [p.prefix for p in prompts]), room=32)
    tokens = [[*prompt.activation, *range(40, 40 + i)] for i, prompt in enumerate(prompts)]
    logits = rows.feed(tokens, keep=13)
    for row, prompt in enumerate(prompts):
        whole = torch.tensor([[*prompt.prefix, *tokens[row]]])
        expected = loaded_tiny.model(whole).logits[0, -len(tokens[row]) :]
        torch.testing.assert_close(logits[row, -len(tokens[row]) :], expected, rtol=1e-4, atol=1e-4)


def test_rows_may_be_fed_unequally_again_and_again(loaded_tiny: LoadedBase) -> None:
    fed = [[[5, 6, 7], [8]], [[9], [10, 11]], [[12, 13], [14, 15]]]
    prefixes = prefill(loaded_tiny.model, [[20, 21, 22], [23]])
    rows = Rows(loaded_tiny.model, prefixes, room=8)
    for tokens in fed:
        logits = rows.feed(tokens)
    for row, start in enumerate(([20, 21, 22], [23])):
        whole = torch.tensor([[*start, *(token for tokens in fed for token in tokens[row])]])
        torch.testing.assert_close(logits[row, -1], loaded_tiny.model(whole).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_each_row_uses_its_own_slot_and_slot_zero_is_the_base(loaded_tiny: LoadedBase) -> None:
    base_rows, base_logits = opened(loaded_tiny, [QUESTIONS[1]])
    expected_base = greedy(base_rows, base_logits)[0]
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTIONS[1])
    (prefix,) = prefill(loaded_tiny.model, [prompt.prefix])

    def answer(slots: Sequence[int]) -> list[list[int]]:
        rows = Rows(loaded_tiny.model, [prefix] * len(slots), room=64, adapters=adapters, slots=slots)
        return greedy(rows, rows.feed([prompt.activation] * len(slots)))

    mixed = answer([1, 0, 2, 3])
    assert mixed[1] == mixed[3] == expected_base  # slot 3 is empty
    assert mixed[0] != expected_base
    assert mixed[2] != mixed[0]
    assert [answer([slot])[0] for slot in (1, 0, 2)] == mixed[:3]


def test_slots_act_as_merged_weights_would(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    (prefix,) = prefill(loaded_tiny.model, [[30, 31, 32]])
    rows = Rows(loaded_tiny.model, [prefix, prefix], room=4, adapters=adapters, slots=[0, 1])
    logits = rows.feed([[33, 34], [33, 34]])
    for layer in adapters.layers.values():
        layer.base.weight += layer.scale[1] * layer.b[1] @ layer.a[1]
    merged = Rows(loaded_tiny.model, [prefix], room=4).feed([[33, 34]])
    torch.testing.assert_close(logits[1], merged[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits[0], merged[0], atol=1e-2)


def test_a_mix_of_slots_acts_as_their_weighted_sum_merged_would(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prefixes = prefill(loaded_tiny.model, [[30, 31, 32]]) * 3
    rows = Rows(loaded_tiny.model, prefixes, room=4, adapters=adapters, mixes=[{1: 1.0, 2: 0.6}, {2: 1.0}, {}])
    logits = rows.feed([[33, 34]] * 3)
    alone = Rows(loaded_tiny.model, prefixes[:2], room=4, adapters=adapters, slots=[2, 0]).feed([[33, 34]] * 2)
    torch.testing.assert_close(logits[1:], alone, rtol=1e-4, atol=1e-4)
    for layer in adapters.layers.values():
        for slot, weight in ((1, 1.0), (2, 0.6)):
            layer.base.weight += weight * layer.scale[slot] * layer.b[slot] @ layer.a[slot]
    merged = Rows(loaded_tiny.model, prefixes[:1], room=4).feed([[33, 34]])
    torch.testing.assert_close(logits[0], merged[0], rtol=1e-4, atol=1e-4)


def test_kept_rows_keep_their_mixes(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prefixes = prefill(loaded_tiny.model, [[30, 31], [32], [33, 34, 35]])
    mixes = [{1: 1.0}, {1: 0.5, 2: 1.0}, {2: 1.0}]
    rows, reference = (Rows(loaded_tiny.model, prefixes, room=8, adapters=adapters, mixes=mixes) for _ in range(2))
    for batch in (rows, reference):
        batch.feed([[40]] * 3)
    rows.keep_rows([1])
    expected = reference.feed([[43], [42], [41]])
    torch.testing.assert_close(rows.feed([[42]]), expected[[1]], rtol=1e-4, atol=1e-4)


def test_rows_that_are_kept_go_on_as_if_nobody_had_left(loaded_tiny: LoadedBase) -> None:
    rows, logits = opened(loaded_tiny)
    whole = greedy(rows, logits)
    rows, logits = opened(loaded_tiny)
    started = greedy(rows, logits, steps=4)
    last = [[whole[row][4]] for row in (2, 0)]
    rows.keep_rows([2, 0])
    after = greedy(rows, rows.feed(last), steps=LENGTH - 5)
    assert started == [row[:4] for row in whole]
    assert after == [whole[2][5:], whole[0][5:]]


def test_kept_rows_keep_their_slots(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prefixes = prefill(loaded_tiny.model, [[30, 31], [32], [33, 34, 35]])
    rows = Rows(loaded_tiny.model, prefixes, room=8, adapters=adapters, slots=[0, 1, 2])
    rows.feed([[40]] * 3)
    reference = Rows(loaded_tiny.model, prefixes, room=8, adapters=adapters, slots=[0, 1, 2])
    reference.feed([[40]] * 3)
    rows.keep_rows([2, 1])
    kept, expected = rows.feed([[41], [42]]), reference.feed([[43], [42], [41]])
    torch.testing.assert_close(kept, expected[[2, 1]], rtol=1e-4, atol=1e-4)


def test_a_rewound_batch_has_forgotten_what_it_was_fed(loaded_tiny: LoadedBase) -> None:
    rows, logits = opened(loaded_tiny)
    expected = greedy(rows, logits, steps=5)
    rows.rewind(5)
    first = torch.tensor([row[0] for row in expected])
    again = rows.feed([[token] for token in first.tolist()])
    assert greedy(rows, again, steps=4) == [row[1:] for row in expected]
    rows.rewind(0)


def test_the_kv_of_a_row_continues_it_elsewhere(loaded_tiny: LoadedBase) -> None:
    rows, logits = opened(loaded_tiny)
    expected = greedy(rows, logits, steps=6)
    moved, moved_logits = opened(loaded_tiny)
    greedy(moved, moved_logits, steps=3)
    carried = Rows(loaded_tiny.model, [moved.kv(1)], room=8)
    assert greedy(carried, carried.feed([[expected[1][3]]]), steps=2) == [expected[1][4:6]]


def test_a_row_without_a_prefix_is_a_row(loaded_tiny: LoadedBase) -> None:
    nothing = PrefixKv.empty(loaded_tiny.model)
    (prefix,) = prefill(loaded_tiny.model, [[50, 51, 52]])
    logits = Rows(loaded_tiny.model, [nothing, prefix], room=4).feed([[60, 61], [60, 61]])
    expected = loaded_tiny.model(torch.tensor([[60, 61]])).logits[0, -1]
    torch.testing.assert_close(logits[0, -1], expected, rtol=1e-4, atol=1e-4)
