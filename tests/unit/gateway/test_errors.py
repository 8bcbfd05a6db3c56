from __future__ import annotations

import json

import pytest

from core import errors
from core.errors import (
    BacklogFull,
    Conflict,
    InvalidRequest,
    LatentBankError,
    NotFound,
    StorageError,
    Unauthenticated,
    Unavailable,
    WrongBase,
)
from gateway.errors import answer_to
from gateway.routes.chat import router as chat_routes


def _all(kind: type[LatentBankError]) -> list[type[LatentBankError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _all(child))]


@pytest.mark.parametrize("kind", [kind for kind in _all(LatentBankError) if kind.__module__ == errors.__name__])
def test_every_error_of_the_tree_has_openais_shape(kind: type[LatentBankError]) -> None:
    answer = answer_to(kind())
    error = json.loads(bytes(answer.body))["error"]
    assert answer.status_code == kind.status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == kind.code
    assert error["message"]
    assert error["type"].endswith("_error")


def test_an_error_of_the_request_is_told_in_its_own_words() -> None:
    error = json.loads(bytes(answer_to(InvalidRequest("The title is missing.", param="title")).body))["error"]
    assert (error["message"], error["param"]) == ("The title is missing.", "title")


def test_an_error_inside_is_told_in_general_words_only() -> None:
    body = bytes(answer_to(StorageError("bucket of the innermost secrets")).body)
    assert b"innermost" not in body
    assert b"The object store did not do what was asked." in body


def test_errors_that_pass_say_when_to_come_back() -> None:
    assert answer_to(BacklogFull(retry_after_seconds=7)).headers["Retry-After"] == "7"
    assert answer_to(Unavailable()).headers["Retry-After"] == "5"
    assert answer_to(Unauthenticated()).headers["WWW-Authenticate"] == "Bearer"


def test_questions_declare_what_a_worker_may_refuse_them_with() -> None:
    """A memory that is pending, or of another base, is a 409 of the worker that the gateway passes on."""
    refusals = {kind.status for kind in (InvalidRequest, NotFound, Conflict, WrongBase, Unavailable)}
    assert refusals == {400, 404, 409, 503}
    for route in chat_routes.routes:
        if "POST" in route.methods:
            assert refusals <= set(route.responses)
