from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from core.internal import PROOF, WINDOW_SECONDS, Call, Checker, Secrets, proven, secrets_of, sha256_of, sign
from core.settings import Settings

OLD, NEW = b"the-old-token", b"the-new-token"
NOW = 1_800_000_000.0
BODY = sha256_of(b"{}")
CALL = Call("worker_a", "tenant_a", "POST", "/v1/chat/completions", BODY)


def check(header: str, call: Call = CALL, keys: tuple[bytes, ...] = (OLD,), now: float = NOW) -> str | None:
    return Checker(Secrets(keys), call.worker_id).body_sha256(header, call.tenant_id, call.method, call.path, now)


def test_a_signature_is_good_for_its_request_and_says_which_body() -> None:
    assert check(sign(Secrets((OLD,)), CALL, NOW)) == BODY


@pytest.mark.parametrize(
    "other",
    [
        {"worker_id": "worker_b"},
        {"tenant_id": "tenant_b"},
        {"tenant_id": ""},
        {"method": "GET"},
        {"path": "/v1/models"},
    ],
)
def test_a_signature_is_good_for_nothing_else(other: dict[str, str]) -> None:
    assert check(sign(Secrets((OLD,)), CALL, NOW), replace(CALL, **other)) is None


def test_no_part_of_a_signature_can_be_changed() -> None:
    parts = sign(Secrets((OLD,)), CALL, NOW).split(".")
    for place in range(len(parts)):
        end = "0" if parts[place][-1] != "0" else "1"
        for changed in ("", "1", parts[place][:-1] + end, "ü", "9" * 400):
            assert check(".".join([*parts[:place], changed, *parts[place + 1 :]])) is None
    for header in ("", ".", "the-old-token", "....", "v1.١.a.b.c"):
        assert check(header) is None


def test_a_signature_serves_once() -> None:
    checker, header = Checker(Secrets((OLD,)), "worker_a"), sign(Secrets((OLD,)), CALL, NOW)
    times = [NOW, NOW, NOW + WINDOW_SECONDS, NOW + 2 * WINDOW_SECONDS, NOW + 3 * WINDOW_SECONDS]
    answers = [checker.body_sha256(header, "tenant_a", "POST", CALL.path, now) for now in times]
    assert answers == [BODY, None, None, None, None]


def test_one_from_a_fast_clock_can_not_be_sent_again_while_it_is_good() -> None:
    checker, header = Checker(Secrets((OLD,)), "worker_a"), sign(Secrets((OLD,)), CALL, NOW + WINDOW_SECONDS)
    times = [NOW + seconds for seconds in range(0, 2 * WINDOW_SECONDS + 1, 10)]
    answers = [checker.body_sha256(header, "tenant_a", "POST", CALL.path, now) for now in times]
    assert answers == [BODY] + [None] * (len(times) - 1)


def test_what_was_seen_is_not_remembered_for_ever() -> None:
    checker = Checker(Secrets((OLD,)), "worker_a")
    for minute in range(20):
        header = sign(Secrets((OLD,)), CALL, NOW + 60 * minute)
        assert checker.body_sha256(header, "tenant_a", "POST", CALL.path, NOW + 60 * minute) == BODY
    assert len(checker._seen | checker._seen_before) < 8


@pytest.mark.parametrize(("off", "good"), [(59, True), (-59, True), (62, False), (-62, False)])
def test_a_signature_is_good_for_a_minute_before_and_after(off: float, good: bool) -> None:
    assert (check(sign(Secrets((OLD,)), CALL, NOW), now=NOW + off) is not None) is good


def test_while_a_token_is_exchanged_both_are_accepted_and_the_first_signs() -> None:
    steps = [Secrets((OLD,)), Secrets((OLD, NEW)), Secrets((NEW, OLD)), Secrets((NEW,))]
    for before, after in pairwise(steps):
        for signing, checking in ((before, after), (after, before)):
            assert check(sign(signing, CALL, NOW), keys=checking.keys) == BODY
            proof = {PROOF: Checker(signing, "worker_a").proof("http://a:1")}
            assert proven(checking, "worker_a", "http://a:1", proof)
    assert check(sign(steps[0], CALL, NOW), keys=steps[3].keys) is None


@pytest.mark.parametrize(("worker_id", "url"), [("worker_b", "http://a:1"), ("worker_a", "http://b:1")])
def test_an_announcement_is_proven_for_its_worker_and_its_address(worker_id: str, url: str) -> None:
    info = {PROOF: Checker(Secrets((OLD,)), "worker_a").proof("http://a:1")}
    assert proven(Secrets((OLD,)), "worker_a", "http://a:1", info)
    assert not proven(Secrets((OLD,)), worker_id, url, info)
    assert not proven(Secrets((NEW,)), "worker_a", "http://a:1", info)


def test_an_announcement_without_a_signature_or_of_another_scheme_is_not_proven() -> None:
    for nothing in ({}, {PROOF: None}, {PROOF: ["a"]}, {PROOF: "ü"}):
        assert not proven(Secrets((OLD,)), "worker_a", "http://a:1", nothing)
    file = "file:///etc/passwd"
    assert not proven(Secrets((OLD,)), "worker_a", file, {PROOF: Checker(Secrets((OLD,)), "worker_a").proof(file)})


def test_empty_tokens_are_none_and_none_is_shown() -> None:
    assert secrets_of(Settings(_env_file=None, internal_token="", internal_token_also="")) is None
    given = secrets_of(Settings(_env_file=None, internal_token="one", internal_token_also="two"))
    assert given == Secrets((b"one", b"two"))
    assert "one" not in repr(given)
