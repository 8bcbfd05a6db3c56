from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.base_model.loading import LoadedBase
from core.engine.generation import Answer, Detokeniser, StopSequences, generate
from core.engine.passes import Passer
from core.engine.rows import Rows, prefill
from core.engine.sampling import Sampler, Sampling

END = 999


def as_bytes(tokens: Sequence[int]) -> str:
    """A byte-level tokenizer's decoding."""
    return bytes(token for token in tokens if token != END).decode(errors="replace")


@given(st.text(max_size=20))
def test_a_character_is_given_out_only_whole(text: str) -> None:
    detokeniser = Detokeniser(as_bytes)
    pieces = [detokeniser.push(byte) for byte in text.encode()]
    assert "".join(pieces) + detokeniser.flush() == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.binary(max_size=20))
def test_bytes_that_are_no_text_come_out_as_the_whole_decodes_them(data: bytes) -> None:
    detokeniser = Detokeniser(as_bytes)
    pieces = [detokeniser.push(byte) for byte in data]
    assert "".join(pieces) + detokeniser.flush() == data.decode(errors="replace")


@given(st.lists(st.text("ab\n", max_size=4), max_size=8), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_stop_sequences_are_found_wherever_the_pieces_break(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    matcher, given_out, stopped = StopSequences(stops), "", False
    for piece in pieces:
        safe, stopped = matcher.push(piece)
        given_out += safe
        if stopped:
            break
    if not stopped:
        given_out += matcher.flush()
    assert stopped == bool(found)
    # Where two stops compete, what was already safe decides; never more than up to the end of the first found.
    assert text.startswith(given_out)
    assert not any(stop in given_out for stop in stops)


def test_what_may_become_a_stop_sequence_is_held_back() -> None:
    matcher = StopSequences(["\n\nQ:"])
    assert matcher.push("Paris.\n") == ("Paris.", False)
    assert matcher.push("\nA") == ("\n\nA", False)
    assert matcher.push("\n\nQ: next") == ("", True)


def test_an_answer_ends_at_an_end_token_and_counts_it() -> None:
    answer = Answer(as_bytes, end_tokens=frozenset({END}), max_tokens=10)
    texts = [answer.push(token) for token in (*b"Hi", END)]
    assert "".join(texts) == "Hi"
    assert (answer.finish_reason, answer.tokens) == ("stop", 3)


def test_an_answer_ends_at_its_length_and_gives_out_what_it_held_back() -> None:
    answer = Answer(as_bytes, end_tokens=frozenset({END}), max_tokens=3, stops=("lo!",))
    assert "".join(answer.push(token) for token in b"hel") == "hel"
    assert (answer.finish_reason, answer.tokens) == ("length", 3)


def test_an_answer_stops_before_its_stop_sequence_even_inside_a_token() -> None:
    answer = Answer(
        lambda tokens: "".join("one. two" for _ in tokens), end_tokens=frozenset(), max_tokens=9, stops=(". ",)
    )
    assert answer.push(1) == "one"
    assert answer.finish_reason == "stop"


def test_half_a_character_at_the_end_is_replaced_not_lost() -> None:
    answer = Answer(as_bytes, end_tokens=frozenset({END}), max_tokens=10)
    texts = [answer.push(token) for token in (*"é".encode()[:1], END)]
    assert texts == ["", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("drafted", [0, 3, 12])
def test_drafted_tokens_are_the_beginning_of_the_same_answer(loaded_tiny: LoadedBase, drafted: int) -> None:
    prompt = loaded_tiny.chat.ask("Tell me")
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    expected = loaded_tiny.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    passer = Passer(loaded_tiny.model)
    rows = Rows(loaded_tiny.model, prefill(loaded_tiny.model, [prompt.prefix]), room=len(prompt.activation) + 24)
    with torch.no_grad():
        logits = rows.feed([[*prompt.activation, *expected[:drafted]]])[0, -1]
    answer = Answer(loaded_tiny.chat.decode, end_tokens=loaded_tiny.end_tokens, max_tokens=12)
    row = passer.running.join([rows.kv(0)], {})
    texts, writing = [], generate(row, logits, expected[:drafted], Sampler(Sampling()), answer)
    told = next(writing)
    while answer.finish_reason is None:
        if isinstance(told, str):
            texts.append(told)
            told = next(writing)
        else:
            told = writing.send(passer.run([], [told])[0])
    texts.append(told)
    assert next(writing, None) is None
    assert "".join(texts) == loaded_tiny.chat.decode(expected)
    assert len(texts) == answer.tokens == len(expected)
    assert torch.is_grad_enabled()
