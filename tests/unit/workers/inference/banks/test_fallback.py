"""Memories that may serve from their text: before there is an adapter, without one, and in the gate's doubt."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from core.engine.sampling import Sampling
from core.errors import Conflict, InvalidRequest, NotFound, ObjectCorrupt, ObjectMissing, PromptTooLong
from core.gate.decision import GateModel
from core.gate.features import FEATURES
from core.gate.relevance import RELEVANT
from core.storage.keys import context_key
from core.storage.publication import read_manifest
from core.truth import tenants
from tests.fixtures.published import OPEN, SHUT
from tests.unit.workers.inference.conftest import Stand
from workers.inference.api.shapes import memory_report
from workers.inference.banks.candidates import Proposed
from workers.inference.banks.fallback import FallingBack
from workers.inference.banks.text_cache import is_salt_of_text
from workers.inference.banks.texts import INDEXED_BYTES
from workers.inference.question import Delta, Question, Scope, Started

TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
SHIP = "The ship Corvina left Lubek in 1703. Its captain was Joris Vane."
ABOUT_TOWN = "Velmora is a town by the river Asten?"
ABOUT_SHIP = "The ship Corvina left Lubek in 1703?"
EVERYDAY = "How long do I boil an egg?"


@pytest.fixture
def tenant(stand: Stand) -> str:
    return stand.publisher.tenant(fallback="text")


def report(stand: Stand, question: Question) -> dict[str, Any]:
    return memory_report(stand.ask(question).started.decision)


def in_doubt(stand: Stand, tenant: str, doubt_from: float = 0.0) -> None:
    """From now on the tenant's gate passes nothing and rules out nothing above `doubt_from`."""
    nothing = (0.0,) * len(FEATURES)
    gate = GateModel(nothing, (1.0,) * len(FEATURES), nothing, bias=0.0, threshold=0.9, doubt_from=doubt_from)
    stand.banks.current(tenant)
    stand.settle()
    stand.gates._gates[tenant] = gate


def with_text_by_hand(stand: Stand, tenant: str, text: str, asked: str) -> str:
    """What the base says when the client itself puts the text before the question."""
    by_hand = f"{text}\n\nUsing the text above, answer briefly: {asked}"
    return stand.ask(stand.question(tenant, by_hand, mode="off")).text


def test_a_memory_answers_from_its_text_before_it_has_an_adapter(stand: Stand, tenant: str) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    stand.publisher.admit(tenant, "Corvina", SHIP)
    answer = stand.ask(stand.question(tenant, ABOUT_TOWN))
    told = memory_report(answer.started.decision)
    record = stand.service.texts.records(tenant, [memory_id])[memory_id]
    assert (told["served_by"], told["memory_id"], told["title"]) == ("text", memory_id, "Velmora")
    assert (told["served_by_all"], told["digest"]) == ([memory_id], f"sha256:{record.context_sha256}")
    assert not told["abstained"]
    assert told["score"] >= told["threshold"] == RELEVANT
    assert [(one["rank"], one["passed"], one["by_text"]) for one in told["candidates"]] == [
        (0, True, True),
        (1, False, True),
    ]
    assert answer.text == with_text_by_hand(stand, tenant, TOWN, ABOUT_TOWN)
    assert stand.metric("latentbank_gate_decisions_total", outcome="text") == 1


def test_an_unrelated_question_gets_the_base_alone(stand: Stand, tenant: str) -> None:
    stand.publisher.admit(tenant, "Velmora", TOWN)
    told = stand.ask(stand.question(tenant, EVERYDAY))
    seen = memory_report(told.started.decision)
    assert (seen["served_by"], seen["memory_id"], seen["abstained"]) == (None, None, True)
    assert [one["passed"] for one in seen["candidates"]] == [False]
    assert told.text == stand.ask(stand.question(tenant, EVERYDAY, mode="off")).text


def test_without_the_setting_nothing_is_read_or_served(stand: Stand) -> None:
    plain = stand.publisher.tenant()
    memory_id, _ = stand.publisher.admit(plain, "Velmora", TOWN)
    seen = report(stand, stand.question(plain, ABOUT_TOWN))
    assert (seen["served_by"], seen["candidates"], seen["abstained"]) == (None, [], True)
    assert stand.text_cache.known(plain) == set()
    with pytest.raises(Conflict):
        stand.service.admit(stand.question(plain, ABOUT_TOWN, model=memory_id))
    with pytest.raises(InvalidRequest, match="'none'"):
        stand.service.admit(stand.question(plain, ABOUT_TOWN, fallback="text"))


def test_a_question_may_do_without_texts(stand: Stand, tenant: str) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    for scope in ({"fallback": "none"}, {"mode": "off"}):
        assert report(stand, stand.question(tenant, ABOUT_TOWN, **scope))["candidates"] == []
    with pytest.raises(Conflict):
        stand.service.admit(stand.question(tenant, ABOUT_TOWN, model=memory_id, fallback="none"))
    assert report(stand, stand.question(tenant, ABOUT_TOWN, fallback="text"))["served_by"] == "text"


def test_the_setting_takes_effect_at_the_next_question_both_ways(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    stand.publisher.admit(tenant, "Velmora", TOWN)
    served = []
    for fallback in ("none", "text", "none"):
        with stand.publisher.database.begin() as connection:
            tenants.configure(connection, tenant, {"fallback": fallback})
        served.append(report(stand, stand.question(tenant, ABOUT_TOWN))["served_by"])
    assert served == [None, "text", None]
    assert stand.text_cache.known(tenant) == set()


def test_the_second_question_about_a_text_computes_only_itself(stand: Stand, tenant: str) -> None:
    stand.publisher.admit(tenant, "Velmora", TOWN)
    first = stand.ask(stand.question(tenant, ABOUT_TOWN)).started
    second = stand.ask(stand.question(tenant, "Its mayor is Ilka Brandt of Velmora?")).started
    assert first.cached_tokens == 0
    of_text = len(stand.base.chat.encode(TOWN))
    assert second.cached_tokens >= of_text
    assert second.prompt_tokens - second.cached_tokens < len(stand.base.chat.encode("x" * 140))


def test_the_next_question_after_publication_is_the_adapters_and_the_text_is_let_go(stand: Stand, tenant: str) -> None:
    admitted = stand.publisher.admit(tenant, "Velmora", TOWN)
    assert report(stand, stand.question(tenant, ABOUT_TOWN))["served_by"] == "text"
    entry = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=OPEN, admitted=admitted)
    seen = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert (seen["served_by"], seen["memory_id"]) == (admitted[0], admitted[0])
    assert seen["digest"] == entry.adapter_digest
    assert "by_text" not in seen["candidates"][0]
    assert (stand.text_cache.salts, stand.text_cache.nbytes) == (frozenset(), 0)
    assert not any(map(is_salt_of_text, stand.prefix_cache.salts))


def test_a_memory_by_its_id_answers_from_its_text_whatever_is_asked(stand: Stand, tenant: str) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    other, _ = stand.publisher.admit(tenant, "Corvina", SHIP)
    for question in (
        stand.question(tenant, EVERYDAY, model=memory_id),
        stand.question(tenant, EVERYDAY, ids=(memory_id,), mode="force"),
    ):
        assert report(stand, question)["memory_id"] == memory_id
    assert report(stand, stand.question(tenant, ABOUT_TOWN, ids=(other,)))["served_by"] is None
    stranger = stand.publisher.tenant("stranger", fallback="text")
    with pytest.raises(NotFound):
        stand.service.admit(stand.question(stranger, ABOUT_TOWN, model=memory_id))


def test_collections_bound_the_texts(stand: Stand, tenant: str) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN, collection="towns")
    assert report(stand, stand.question(tenant, ABOUT_TOWN, collection="ships"))["candidates"] == []
    assert report(stand, stand.question(tenant, ABOUT_TOWN, collection="towns"))["memory_id"] == memory_id


def test_the_best_match_answers_whether_it_has_an_adapter_or_not(stand: Stand, tenant: str) -> None:
    town, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    ship = stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=OPEN)
    by_text = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert (by_text["served_by"], by_text["memory_id"]) == ("text", town)
    by_adapter = report(stand, stand.question(tenant, ABOUT_SHIP))
    assert by_adapter["served_by"] == ship.memory_id
    assert [(one["memory_id"], one["rank"]) for one in by_adapter["candidates"]] == [(ship.memory_id, 0), (town, 1)]
    both = report(stand, stand.question(tenant, ABOUT_TOWN, mode="force"))
    assert (both["served_by"], both["memory_id"]) == ("text", town)


def test_where_the_gate_refuses_the_best_match_a_relevant_text_after_it_answers(stand: Stand, tenant: str) -> None:
    twin = f"{TOWN} It has a bridge."
    other, _ = stand.publisher.admit(tenant, "Velmora bridge", twin)
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=SHUT)
    stand.settle()
    seen = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert seen["candidates"][0]["rank"] == 0
    assert (seen["served_by"], seen["memory_id"]) == ("text", other)


def test_in_doubt_the_memorys_text_answers_and_says_how_it_was_judged(stand: Stand, tenant: str) -> None:
    entry = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    in_doubt(stand, tenant)
    answer = stand.ask(stand.question(tenant, ABOUT_TOWN))
    seen = memory_report(answer.started.decision)
    assert (seen["served_by"], seen["memory_id"], seen["abstained"]) == ("text", entry.memory_id, False)
    assert 0 < seen["score"] < seen["threshold"] == 0.9
    assert seen["digest"] != entry.adapter_digest
    assert answer.text == with_text_by_hand(stand, tenant, TOWN, ABOUT_TOWN)
    assert stand.residency.in_use == 0
    again = stand.ask(stand.question(tenant, "Its mayor?")).started
    assert again.cached_tokens >= len(stand.base.chat.encode(TOWN))


def test_what_the_gate_rules_out_and_who_has_no_setting_stay_with_the_base(stand: Stand, tenant: str) -> None:
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    in_doubt(stand, tenant, doubt_from=0.6)
    assert report(stand, stand.question(tenant, ABOUT_TOWN))["served_by"] is None
    plain = stand.publisher.tenant("plain")
    stand.publisher.publish(plain, "Velmora", TOWN, seed=1)
    in_doubt(stand, plain)
    assert report(stand, stand.question(plain, ABOUT_TOWN))["abstained"]
    assert stand.text_cache.salts == frozenset()


def test_in_doubt_without_a_text_the_base_answers(stand: Stand, tenant: str) -> None:
    entry = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    in_doubt(stand, tenant)
    stand.publisher.store.delete(context_key(tenant, entry.memory_id))
    answer = stand.ask(stand.question(tenant, ABOUT_TOWN))
    assert answer.started.decision.abstained
    assert answer.text == stand.ask(stand.question(tenant, ABOUT_TOWN, mode="off")).text


def test_a_lost_or_damaged_text_is_absent_with_its_reason_and_raised_where_it_is_asked_for(
    stand: Stand, tenant: str
) -> None:
    town, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    ship, _ = stand.publisher.admit(tenant, "Corvina", SHIP)
    stand.publisher.store.delete(context_key(tenant, town))
    stand.publisher.store.put(context_key(tenant, ship), b'{"kind": "text", "text": "forged"}')
    seen = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert {one["memory_id"]: one["unavailable"] for one in seen["candidates"]} == {
        town: "object_missing",
        ship: "object_corrupt",
    }
    assert seen["abstained"]
    for memory_id, problem in ((town, ObjectMissing), (ship, ObjectCorrupt)):
        with pytest.raises(problem):
            stand.service.admit(stand.question(tenant, ABOUT_TOWN, model=memory_id))


def test_a_text_that_does_not_fit_the_window_is_absent_and_says_so(stand: Stand, tenant: str) -> None:
    window = stand.base.description.context_tokens
    long, _ = stand.publisher.admit(tenant, "Velmora", f"{TOWN} " + "On and on. " * (window // 11))
    short, _ = stand.publisher.admit(tenant, "Velmora again", "Velmora is a town by a river.")
    seen = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert seen["memory_id"] == short
    assert {one["memory_id"]: one.get("unavailable") for one in seen["candidates"]} == {
        short: None,
        long: "context_length_exceeded",
    }
    with pytest.raises(PromptTooLong):
        stand.service.admit(stand.question(tenant, ABOUT_TOWN, model=long))


def test_a_memory_whose_adapter_is_lost_answers_from_its_text(stand: Stand, tenant: str) -> None:
    entry = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    manifest = read_manifest(stand.publisher.store, entry.manifest_key)
    for file in manifest.files:
        stand.publisher.store.delete(manifest.key_of(file))
    seen = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert (seen["served_by"], seen["memory_id"]) == ("text", entry.memory_id)
    assert [one.get("unavailable") for one in seen["candidates"]] == [None]
    assert report(stand, stand.question(tenant, EVERYDAY, model=entry.memory_id))["served_by"] == "text"


def test_a_sampled_answer_and_a_plain_prompt_are_served_too(stand: Stand, tenant: str) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    plain = Question(tenant, stand.base.description.name, ABOUT_TOWN, max_tokens=8, sampling=Sampling(1.0, 1.0, 7))
    first, second = stand.ask(plain), stand.ask(plain)
    assert first.started.decision.text is not None
    assert first.started.decision.text.memory_id == memory_id
    assert first.text == second.text
    by_hand = Question(tenant, plain.model, f"{TOWN}\n\n{ABOUT_TOWN}", Scope(mode="off"), plain.sampling, 8)
    assert stand.ask(by_hand).text == first.text


def test_two_tenants_with_one_text_share_no_block_of_it(stand: Stand, tenant: str) -> None:
    other = stand.publisher.tenant("other", fallback="text")
    for one in (tenant, other):
        stand.publisher.admit(one, "Velmora", TOWN)
        assert stand.ask(stand.question(one, ABOUT_TOWN)).started.cached_tokens == 0


def test_a_text_that_takes_its_time_is_absent_and_there_for_who_asks_next(
    stand: Stand, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    question, free, get = stand.question(tenant, ABOUT_TOWN), Event(), stand.publisher.store.get

    def hanging(key: str) -> bytes:
        assert free.wait(timeout=20)
        return get(key)

    monkeypatch.setattr(stand.publisher.store, "get", hanging)
    texts, encoder = stand.service.texts, stand.publisher.encoder
    impatient = FallingBack(texts, encoder, stand.service._about, top_k=2, wait_seconds=0.0)
    following = impatient.allowed(tenant, 0, question.scope)
    assert following is not None
    backup, found = impatient.consider(question, question.scope, following, Proposed())
    assert backup.text is None
    assert [(one.memory_id, one.reason) for one in found.absent] == [(memory_id, "text_pending")]
    free.set()
    assert report(stand, question)["memory_id"] == memory_id


def test_while_the_text_of_a_doubt_is_fetched_others_are_answered(
    stand: Stand, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    in_doubt(stand, tenant)
    free, asked, get = Event(), Event(), stand.publisher.store.get

    def hanging(key: str) -> bytes:
        if "/adapters/" in key:
            return get(key)
        asked.set()
        assert free.wait(timeout=20)
        return get(key)

    monkeypatch.setattr(stand.publisher.store, "get", hanging)
    doubtful = stand.flight(stand.question(tenant, ABOUT_TOWN))
    while not asked.is_set():
        stand.engine.turn()
    assert stand.ask(stand.question(tenant, EVERYDAY, mode="off")).text
    assert stand.residency.in_use == 0
    assert doubtful.arrived() == []
    free.set()
    started = next(doubtful)
    assert isinstance(started, Started)
    assert started.decision.text is not None


def test_what_is_too_much_to_hold_is_left_out_with_a_reason_the_oldest_first(
    stand: Stand, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand.service.texts, "_share", INDEXED_BYTES * 150)
    old, middle, new = (stand.publisher.admit(tenant, name, TOWN)[0] for name in ("one", "two", "three"))
    seen = report(stand, stand.question(tenant, ABOUT_TOWN))
    assert {one["memory_id"]: one.get("unavailable") for one in seen["candidates"]} == {
        old: "texts_full",
        middle: "texts_full",
        new: None,
    }
    assert seen["memory_id"] == new
    assert report(stand, stand.question(tenant, ABOUT_TOWN, model=old))["memory_id"] == old


def test_a_text_answers_the_same_alone_and_beside_others(stand: Stand, tenant: str) -> None:
    stand.publisher.admit(tenant, "Velmora", TOWN)
    stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=OPEN)
    questions = [
        stand.question(tenant, ABOUT_TOWN),
        stand.question(tenant, ABOUT_SHIP),
        stand.question(tenant, "Its mayor is Ilka Brandt of Velmora?"),
        stand.question(tenant, EVERYDAY, mode="off"),
    ]
    alone = [stand.ask(question).text for question in questions]
    stand.prefix_cache.clear()
    flights = [stand.flight(question) for question in questions]
    together = [""] * len(flights)
    while not all(flight.done for flight in flights):
        stand.engine.turn()
        for at, flight in enumerate(flights):
            together[at] += "".join(event.text for event in flight.arrived() if isinstance(event, Delta))
    assert together == alone


def test_of_many_that_are_asked_for_by_id_only_those_without_an_adapter_are_read(stand: Stand, tenant: str) -> None:
    ready = [stand.publisher.publish(tenant, f"Corvina {i}", SHIP, seed=i).memory_id for i in (1, 2, 3)]
    waiting, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    seen = report(stand, stand.question(tenant, ABOUT_SHIP, ids=(*ready, waiting)))
    by_text = {one["memory_id"] for one in seen["candidates"] if one.get("by_text")}
    assert (by_text, len(seen["candidates"])) == ({waiting}, 3)
