from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.engine.sampling import Sampling
from workers.inference.api.schemas import ChatRequest, CompletionRequest
from workers.inference.question import Scope

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "base", "messages": HELLO, **fields})


def test_a_bare_request_is_greedy_over_the_whole_bank_through_the_gate() -> None:
    question = chat().question("tenant_x")
    assert (question.sampling, question.scope, question.stops) == (Sampling(), Scope(), ())
    assert question.asked == ({"role": "user", "content": "Hello"},)


def test_every_field_arrives() -> None:
    memory = {
        "ids": ["m1", "m2", "m1"],
        "collection": "c",
        "top_k": 2,
        "mode": "force",
        "threshold": 0.7,
        "max_active": 2,
        "explain": True,
    }
    question = chat(
        temperature=0.5, top_p=0.9, seed=3, stop="END", max_tokens=5, max_completion_tokens=7, memory=memory
    ).question("tenant_x")
    assert question.sampling == Sampling(0.5, 0.9, 3)
    assert question.scope == Scope(("m1", "m2"), "c", 2, "force", 0.7, 2, True)
    assert (question.stops, question.max_tokens) == (("END",), 7)


def test_content_in_parts_and_the_developer_role_are_understood() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
    ]
    asked = chat(messages=messages).question("t").asked
    assert asked == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"frequency_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
        {"temperature": -1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"memory": {"mode": "always"}},
        {"memory": {"ids": []}},
        {"memory": {"threshold": 2}},
        {"memory": {"max_active": 0}},
        {"memory": {"max_active": 4}},
        {"memory": {"explain": "perhaps"}},
        {"memory": {"adapter_path": "/etc/passwd"}},
        {"logprobs": 0},
        {"store": True},
        {"tool_choice": "required"},
        {"modalities": ["text", "audio"]},
        {"repetition_penalty": 1.2},
        {"top_k": 40},
        {"tempature": 0.5},
        {"prompt": "Hello"},
    ],
)
def test_what_would_not_be_done_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"tools": []},
        {"tool_choice": "auto"},
        {"presence_penalty": 0.0},
        {"logprobs": None},
        {"logprobs": False},
        {"logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"memory": None},
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"service_tier": "auto"},
        {"store": False},
        {"stream": None},
        {"stream_options": None},
        {"stop": None},
        {"seed": None},
        {"temperature": None},
        {"max_tokens": None},
        {"repetition_penalty": 1.0},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    chat(**fields)


def test_a_completion_takes_one_prompt() -> None:
    for prompt in ("Once", ["Once"]):
        assert CompletionRequest.model_validate({"model": "b", "prompt": prompt}).question("t").asked == "Once"
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"model": "b", "prompt": ["a", "b"]})
