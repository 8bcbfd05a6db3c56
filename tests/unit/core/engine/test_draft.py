from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.draft import Drafts, draft, signals_of
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
    assert made.drafted[1] == expected[:LENGTH]
    assert made.drafted[0] != made.drafted[1]
    assert made.first_logits[1].argmax() == expected[0]
    assert made.next_logits[1].argmax() == expected[LENGTH]
    assert len(made.tokens) == len(made.ended) == len(made.signals) == 1


def test_there_is_a_row_for_each_question_and_one_more_only_for_the_base_s_own_answer(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    (prefix,) = prefill(loaded_tiny.model, [prompt.prefix])
    ends = loaded_tiny.end_tokens
    for base_answer in (False, True):
        made = draft(
            loaded_tiny.model,
            adapters,
            [prefix, prefix],
            prompt.activation,
            [1, 2],
            length=LENGTH,
            end_tokens=ends,
            base_answer=base_answer,
        )
        rows = 2 + base_answer
        assert len(made.drafted) == len(made.first_logits) == len(made.next_logits) == rows
        assert [row.argmax() for row in made.first_logits] == [drafted[0] for drafted in made.drafted]
        assert len(made.tokens) == len(made.ended) == len(made.signals) == 2


def test_the_base_reads_each_draft_as_in_one_plain_forward_pass(loaded_tiny: LoadedBase) -> None:
    expected = alone(loaded_tiny, QUESTION)
    adapters = loaded(loaded_tiny)
    prompts = [loaded_tiny.chat.ask(question) for question in (QUESTION, "Hi")]
    prefixes = prefill(loaded_tiny.model, [prompt.prefix for prompt in prompts])
    activation, slots = prompts[0].activation, [1, 2]
    made = draft(
        loaded_tiny.model,
        adapters,
        prefixes,
        activation,
        slots,
        length=LENGTH,
        end_tokens=frozenset(),
        base_answer=True,
    )
    # Of several questions the base's own answer is to the first.
    assert made.drafted[2] == expected[:LENGTH]
    for row, (prompt, slot) in enumerate(zip(prompts, slots, strict=True)):
        drafted = made.drafted[row]
        whole = torch.tensor([[*prompt.prefix, *activation, *drafted[:-1]]])
        read_by_base = loaded_tiny.model(whole).logits[0, -LENGTH:].log_softmax(-1)
        single = draft(
            loaded_tiny.model, adapters, [prefixes[row]], activation, [slot], length=LENGTH, end_tokens=frozenset()
        )
        chosen = read_by_base.gather(1, torch.tensor(drafted)[:, None])
        entropy = -(read_by_base[0].exp() * read_by_base[0]).sum()
        for signals in (made.signals[row], single.signals[0]):
            assert signals.likelihood_base == pytest.approx(float(chosen.mean()), abs=1e-3)
            assert signals.entropy_base == pytest.approx(float(entropy), abs=1e-3)


def test_generation_can_go_on_from_the_rows_of_the_drafts(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    prefixes = prefill(loaded_tiny.model, [prompt.prefix])
    long, short = (
        draft(
            loaded_tiny.model,
            adapters,
            prefixes,
            prompt.activation,
            [1],
            length=length,
            end_tokens=frozenset(),
            room=LENGTH,
            base_answer=True,
        )
        for length in (LENGTH, LENGTH - 2)
    )
    logits = short.next_logits
    for step in range(LENGTH - 2, LENGTH):
        tokens = logits.argmax(-1).tolist()
        assert tokens == [drafted[step] for drafted in long.drafted]
        logits = short.rows.feed([[token] for token in tokens])[:, -1]
    torch.testing.assert_close(logits, long.next_logits, rtol=1e-4, atol=1e-4)


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
    assert cut.signals[0].likelihood_base == pytest.approx(short.signals[0].likelihood_base, abs=1e-6)


def test_a_draft_says_whether_it_came_to_its_end(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    (prefix,) = prefill(loaded_tiny.model, [prompt.prefix])

    def drafts(ends: frozenset[int], length: int = LENGTH) -> Drafts:
        return draft(
            loaded_tiny.model,
            adapters,
            [prefix, prefix],
            prompt.activation,
            [1, 2],
            length=length,
            end_tokens=ends,
        )

    free = drafts(frozenset())
    assert free.ended == [False, False]
    assert free.tokens == free.drafted
    # A token that only the first draft holds.
    end = next(token for token in free.tokens[0] if token not in free.tokens[1])
    cut = drafts(frozenset([end]))
    assert cut.ended == [True, False]
    assert cut.tokens == [free.tokens[0][: free.tokens[0].index(end)], free.tokens[1]]
    # Where the draft stops right before the end token, it has not come to its end.
    before = free.tokens[0].index(end)
    if before:
        assert drafts(frozenset([end]), before).ended == [False, False]
    assert drafts(frozenset([end]), before + 1).ended == [True, False]


def test_drafting_stops_when_every_draft_has_come_to_its_end(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    (prefix,) = prefill(loaded_tiny.model, [prompt.prefix])

    def drafts(slots: list[int], ends: frozenset[int]) -> Drafts:
        return draft(
            loaded_tiny.model,
            adapters,
            [prefix] * len(slots),
            prompt.activation,
            slots,
            length=LENGTH,
            end_tokens=ends,
            base_answer=True,
        )

    free = drafts([1, 2], frozenset())
    end = next(token for token in free.tokens[0] if token not in free.tokens[1])
    at = free.drafted[0].index(end)
    assert at + 1 < LENGTH
    stopped, going_on = drafts([1], frozenset([end])), drafts([1, 2], frozenset([end]))
    assert stopped.drafted == [free.drafted[0][: at + 1], free.drafted[2][: at + 1]]
    assert [len(tokens) for tokens in going_on.drafted] == [LENGTH] * 3
    assert stopped.signals[0].kl == pytest.approx(going_on.signals[0].kl, abs=1e-5)
    assert int(stopped.next_logits[1].argmax()) == free.drafted[2][at + 1]


def test_a_draft_that_ends_at_once_is_empty_but_has_the_signals_of_its_end(loaded_tiny: LoadedBase) -> None:
    adapters = loaded(loaded_tiny)
    prompt = loaded_tiny.chat.ask(QUESTION)
    prefixes = prefill(loaded_tiny.model, [prompt.prefix])

    def drafted(length: int, ends: frozenset[int]) -> Drafts:
        return draft(loaded_tiny.model, adapters, prefixes, prompt.activation, [1], length=length, end_tokens=ends)

    one = drafted(1, frozenset())
    cut = drafted(LENGTH, frozenset(one.tokens[0]))
    assert cut.tokens == [[]]
    assert cut.ended == [True]
    assert cut.signals[0].kl == pytest.approx(one.signals[0].kl, abs=1e-6)


def test_signals_are_in_nats() -> None:
    uniform = torch.full((1, 4), 0.25).log()
    sure = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log()
    signals = signals_of(sure, uniform, [0])
    assert signals.entropy_base == pytest.approx(1.3863, abs=1e-4)
    assert signals.kl == signals.kl_first == pytest.approx(1.3863 - signals.entropy_adapter, abs=1e-4)
    assert signals.likelihood_base == pytest.approx(-1.3863, abs=1e-4)
    assert signals.margin == pytest.approx(4.5747, abs=1e-3)
