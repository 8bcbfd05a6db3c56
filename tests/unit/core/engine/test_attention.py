from typing import Any

import pytest
import torch

from core.base_model.loading import LoadedBase
from core.engine.attention import ATTENTION
from core.engine.forward import can_run_together
from core.engine.install import install
from core.engine.kv import PrefixKv
from core.engine.rows import Rows, prefill

START = [20, 21, 22, 23, 24]
RESTS = [[30, 31, 32], [33], [34, 35]]
NEXT = [[40], [41, 42], [43, 44, 45]]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def whole(model: Any) -> Rows:
    return Rows(model, prefill(model, [[*START, *rest] for rest in RESTS]), room=4)


def sharing(model: Any) -> Rows:
    (start,) = prefill(model, [START])
    return Rows(model, prefill(model, RESTS, start), room=4, shared=start)


def test_rows_that_share_a_start_say_what_rows_with_copies_of_it_say(loaded_tiny: LoadedBase) -> None:
    assert can_run_together(loaded_tiny.model)
    one, other = sharing(loaded_tiny.model), whole(loaded_tiny.model)
    close(one.feed(NEXT), other.feed(NEXT))
    close(one.feed([[50]] * 3), other.feed([[50]] * 3))


def test_rows_may_leave_and_the_rest_goes_on(loaded_tiny: LoadedBase) -> None:
    one, other = sharing(loaded_tiny.model), whole(loaded_tiny.model)
    for rows in (one, other):
        rows.feed(NEXT)
        rows.keep_rows([2, 0])
    close(one.feed([[50], [51]]), other.feed([[50], [51]]))


def test_the_kv_of_a_row_is_its_own_alone(loaded_tiny: LoadedBase) -> None:
    rows, other = sharing(loaded_tiny.model), whole(loaded_tiny.model)
    for row, rest in enumerate(RESTS):
        own = rows.kv(row)
        assert len(own) == len(rest)
        close(own.keys, other.kv(row).keys[:, :, len(START) :])


def test_a_model_that_cant_share_gets_copies_and_says_the_same(
    loaded_tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sharing(loaded_tiny.model)
    logits, own = expected.feed(NEXT), expected.kv(1)
    monkeypatch.setattr("core.engine.rows.can_run_together", lambda model: False)
    rows = sharing(loaded_tiny.model)
    close(rows.feed(NEXT), logits)
    close(rows.kv(1).values, own.values)


def test_an_empty_start_is_none(loaded_tiny: LoadedBase) -> None:
    nothing = PrefixKv.empty(loaded_tiny.model)
    rows = Rows(loaded_tiny.model, prefill(loaded_tiny.model, RESTS, nothing), room=4, shared=nothing)
    close(rows.feed(NEXT), Rows(loaded_tiny.model, prefill(loaded_tiny.model, RESTS), room=4).feed(NEXT))


def test_a_model_that_does_not_hand_the_start_on_is_left_as_it_was() -> None:
    class Config:
        _attn_implementation = "sdpa"

    class Deaf:
        config = Config()

        def set_attn_implementation(self, name: str) -> None:
            self.config._attn_implementation = name

    model = Deaf()
    assert not install(model)
    assert model.config._attn_implementation == "sdpa" != ATTENTION
