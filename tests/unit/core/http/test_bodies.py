from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import InvalidRequest, NotUtf8
from core.http.bodies import check_size, parse
from core.settings import LimitSettings
from gateway.schemas import ChatQuestion, NewMemory, NewTenant

LIMITS = LimitSettings()
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
            parse(model, body, LIMITS)


@given(st.dictionaries(st.sampled_from(["title", "text", "messages", "collection", "metadata", "x"]), JSON))
def test_any_fields_are_a_memory_or_a_clear_refusal(fields: dict[str, object]) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(NewMemory, json.dumps(fields).encode(), LIMITS)


def test_a_byte_order_mark_is_overlooked() -> None:
    assert parse(NewMemory, b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), LIMITS).title == "T"


def test_what_is_not_utf8_is_told_with_its_place() -> None:
    with pytest.raises(NotUtf8, match="at byte 3"):
        parse(NewMemory, b"abc\xff", LIMITS)


def test_a_refusal_names_the_field_and_not_its_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(NewMemory, json.dumps({**GOOD, "metadata": "my secret"}).encode(), LIMITS)
    assert refused.value.param == "metadata"
    assert "my secret" not in refused.value.message


def test_a_null_stands_for_a_field_that_is_not_there() -> None:
    assert parse(NewMemory, json.dumps({**GOOD, "messages": None}).encode(), LIMITS).text == "a"
    with pytest.raises(InvalidRequest, match="either 'text' or 'messages'"):
        parse(NewMemory, b'{"title": "T", "text": null}', LIMITS)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_is_nested_too_deep_is_refused_before_it_is_read(opening: str) -> None:
    check_size(opening * 32, 32, 100)
    with pytest.raises(InvalidRequest, match="deeper than 32"):
        check_size(opening * 100_000, 32, 10**9)


def test_what_has_too_many_items_is_refused_before_it_is_read() -> None:
    check_size(json.dumps(list(range(100))), 32, 100)
    with pytest.raises(InvalidRequest, match="more than 100 items"):
        check_size(json.dumps({"a": list(range(100))}), 32, 100)


@given(st.text(alphabet='[]{},\\"a'))
def test_what_is_in_a_string_is_no_structure(text: str) -> None:
    check_size(json.dumps([text, {text: text}]), 2, 3)


@pytest.mark.parametrize("text", ['"' + '\\"' * 10**6, '"' * 10**6, "\\" * 10**6, '["' + "[" * 10**6])
def test_strings_that_do_not_end_are_gone_over_once(text: str) -> None:
    check_size(text, 32, 10)


@given(JSON)
def test_counting_agrees_with_reading(value: object) -> None:
    depth, items = extent(value)
    check_size(json.dumps(value), depth, items)
    if depth:
        with pytest.raises(InvalidRequest):
            check_size(json.dumps(value), depth - 1, items)
        with pytest.raises(InvalidRequest):
            check_size(json.dumps(value), depth, items - 1)


def extent(value: object) -> tuple[int, int]:
    """Levels, and brackets with commas."""
    if not isinstance(value, dict | list):
        return 0, 0
    inner = [extent(part) for part in (value.values() if isinstance(value, dict) else value)]
    return 1 + max((depth for depth, _ in inner), default=0), max(1, len(value)) + sum(count for _, count in inner)
