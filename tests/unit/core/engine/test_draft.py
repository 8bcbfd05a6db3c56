from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.draft import draft, signals_of
from core.engine.rows import prefill
from tests.unit.core.engine.test_rows import TARGETS, alone, loaded

LENGTH = 6
QUESTION = "What is the capital of Orsk?"


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_an_adapter_of_zeros_drafts_the_base_answer_and_shows_no_divergence(loaded_tiny: LoadedBase) -> None:
    expected = alone(loaded_tiny, QUESTION)
    adapters = PackedAdapters(loaded_tiny.model, TARGETS, slots=2, rank=4)
    prompt = loaded_tiny.chat.ask(QUESTION)
    prefixes = prefill(loaded_tiny.model, [prompt.prefix])
    made = draft(
        loaded_tiny.model, adapters, prefixes, prompt.activation, [1], length=LENGTH, end_tokens=loaded_tiny.end_tokens
    )
    (signals,) = made.signals
    assert signals.kl == pytest.approx(0.0, abs=1e-5)
    assert signals.kl_first == pytest.approx(0.0, abs=1e-5)
    assert signals.likelihood_adapter == pytest.approx(signals.likelihood_base, abs=1e-5)
    assert signals.entropy_adapter == pytest.approx(signals.entropy_base, abs=1e-4)
    assert made.drafted[0] == expected[:LENGTH]


def test_an_adapter_that_changes_the_answer_diverges_from_the_base(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    prefixes = prefill(loaded_tiny.model, [prompt.prefix])
    made = draft(
        loaded_tiny.model,
        adapters,
        [prefixes[0], prefixes[0]],
        prompt.activation,
        [1, 2],
        length=LENGTH,
        end_tokens=loaded_tiny.end_tokens,
    )
    for signals in made.signals:
        assert signals.kl > 0.1
        assert signals.likelihood_adapter > signals.likelihood_base
        assert signals.margin > 0


def test_a_draft_does_not_depend_on_its_neighbours(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompts = [loaded_tiny.chat.ask(question) for question in (QUESTION, "Hi", "Name three ports, in order.")]
    prefixes = prefill(loaded_tiny.model, [prompt.prefix for prompt in prompts])
    ends, activation = loaded_tiny.end_tokens, prompts[0].activation
    together = draft(loaded_tiny.model, adapters, prefixes, activation, [1, 2, 1], length=LENGTH, end_tokens=ends)
    for i, slot in enumerate((1, 2, 1)):
        single = draft(loaded_tiny.model, adapters, [prefixes[i]], activation, [slot], length=LENGTH, end_tokens=ends)
        assert single.tokens[0] == together.tokens[i]
        assert single.signals[0].kl == pytest.approx(together.signals[i].kl, abs=1e-3)


def test_the_base_row_writes_its_own_answer_beside_the_drafts(loaded_tiny: LoadedBase) -> None:
    expected = alone(loaded_tiny, QUESTION)
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    prefixes = prefill(loaded_tiny.model, [prompt.prefix])
    made = draft(
        loaded_tiny.model,
        adapters,
        prefixes,
        prompt.activation,
        [1],
        length=LENGTH,
        end_tokens=loaded_tiny.end_tokens,
        room=LENGTH,
        base_answer=True,
    )
    assert made.drafted[2] == expected[:LENGTH]
    assert made.drafted[1] == made.drafted[0]
    assert made.next_logits[2].argmax() == expected[LENGTH]


def test_a_draft_is_cut_at_an_end_token_and_signals_count_no_more(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    prefixes = prefill(loaded_tiny.model, [prompt.prefix])
    free = draft(
        loaded_tiny.model, adapters, prefixes, prompt.activation, [1], length=LENGTH, end_tokens=frozenset()
    ).tokens[0]
    end = free[2]
    at = free.index(end)
    cut = draft(
        loaded_tiny.model, adapters, prefixes, prompt.activation, [1], length=LENGTH, end_tokens=frozenset([end])
    )
    short = draft(
        loaded_tiny.model, adapters, prefixes, prompt.activation, [1], length=at + 1, end_tokens=frozenset([end])
    )
    assert cut.tokens[0] == free[:at]
    assert cut.signals[0].kl == pytest.approx(short.signals[0].kl, abs=1e-6)


def test_signals_are_in_nats() -> None:
    uniform = torch.full((1, 4), 0.25).log()
    sure = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log()
    signals = signals_of(sure, uniform, [0])
    assert signals.entropy_base == pytest.approx(1.3863, abs=1e-4)
    assert signals.kl == signals.kl_first == pytest.approx(1.3863 - signals.entropy_adapter, abs=1e-4)
    assert signals.likelihood_base == pytest.approx(-1.3863, abs=1e-4)
    assert signals.margin == pytest.approx(4.5747, abs=1e-3)
