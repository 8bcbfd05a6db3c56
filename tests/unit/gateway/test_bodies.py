from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import InvalidRequest, NotUtf8
from gateway.bodies import parse
from gateway.schemas import ChatQuestion, NewMemory, NewTenant

GOOD = {"title": "T", "text": "a"}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.binary())
@example(b"\xef\xbb\xbf{}")
@example(b'{"title": "\\udc00", "text": "a"}')
def test_any_bytes_are_a_body_or_a_clear_refusal(body: bytes) -> None:
    for model in (NewMemory, NewTenant, ChatQuestion):
        with contextlib.suppress(InvalidRequest):
            parse(model, body)


@given(st.dictionaries(st.sampled_from(["title", "text", "messages", "collection", "metadata", "x"]), JSON))
def test_any_fields_are_a_memory_or_a_clear_refusal(fields: dict[str, object]) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(NewMemory, json.dumps(fields).encode())


def test_a_byte_order_mark_is_overlooked() -> None:
    assert parse(NewMemory, b"\xef\xbb\xbf" + json.dumps(GOOD).encode()).title == "T"


def test_what_is_not_utf8_is_told_with_its_place() -> None:
    with pytest.raises(NotUtf8, match="at byte 3"):
        parse(NewMemory, b"abc\xff")


def test_a_refusal_names_the_field_and_not_its_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(NewMemory, json.dumps({**GOOD, "metadata": "my secret"}).encode())
    assert refused.value.param == "metadata"
    assert "my secret" not in refused.value.message


def test_a_null_stands_for_a_field_that_is_not_there() -> None:
    assert parse(NewMemory, json.dumps({**GOOD, "messages": None}).encode()).text == "a"
    with pytest.raises(InvalidRequest, match="either 'text' or 'messages'"):
        parse(NewMemory, b'{"title": "T", "text": null}')
