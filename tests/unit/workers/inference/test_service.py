from __future__ import annotations

from dataclasses import replace

import pytest

from core.engine.decoding import write
from core.engine.rows import prefill
from core.engine.sampling import Sampling
from core.errors import Conflict, NotFound, PromptTooLong, WrongBase
from core.gate.features import FEATURES
from core.ids import new_id
from tests.fixtures.published import OPEN, SHUT, samples_on
from tests.unit.workers.inference.conftest import Answered, Stand
from workers.inference.api.shapes import memory_report
from workers.inference.question import Decision, Question, Started

TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
SHIP = "The ship Corvina left Lubek in 1703. Its captain was Joris Vane."
BIRD = "The grey heron eats fish. It nests in tall trees."


def test_the_gate_lets_the_memory_that_fits_answer_and_the_answer_names_it(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=samples_on("dense", 0.4))
    stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=samples_on("dense", 0.4))
    answer = stand.ask(stand.question(tenant, "Its mayor is Ilka Brandt?"))
    served = answer.started.decision.served
    assert served is not None
    assert (served.memory_id, served.digest, served.title) == (town.memory_id, town.adapter_digest, "Velmora")
    assert served.score >= served.threshold
    assert len(answer.started.decision.candidates) == 2


def test_where_no_memory_passes_the_base_answers_as_if_there_were_none(stand: Stand) -> None:
    tenant, empty = stand.publisher.tenant(), stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=SHUT)
    asked = "What is the capital of France?"
    abstained = stand.ask(stand.question(tenant, asked))
    assert abstained.served_by is None
    assert abstained.started.decision.abstained
    assert abstained.text == _reference(stand, stand.question(tenant, asked))
    assert abstained.text == stand.ask(stand.question(tenant, asked, mode="off")).text
    assert abstained.text == stand.ask(stand.question(empty, asked)).text
    outcomes = [stand.metric("latentbank_gate_decisions_total", outcome=o) for o in ("abstained", "off", "activated")]
    assert outcomes == [2, 1, 0]


def test_off_judges_nothing_and_force_takes_the_best_whatever_its_score(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=SHUT)
    off = stand.ask(stand.question(tenant, "Who is mayor of Velmora?", mode="off"))
    assert off.started.decision.candidates == ()
    assert not off.started.decision.abstained
    forced = stand.ask(stand.question(tenant, "Who is mayor of Velmora?", mode="force"))
    assert forced.served_by == town.memory_id
    assert forced.text != off.text


def test_a_threshold_of_the_request_replaces_the_memorys(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=OPEN)
    assert stand.ask(stand.question(tenant, "Velmora?")).served_by == town.memory_id
    strict = stand.ask(stand.question(tenant, "Velmora?", threshold=1.0))
    assert strict.served_by is None
    assert strict.started.decision.candidates[0].threshold == 1.0


def test_a_candidate_says_how_it_was_found_and_judged_and_its_signals_only_where_they_are_asked_for(
    stand: Stand,
) -> None:
    tenant = stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=samples_on("dense", 0.4))
    stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=samples_on("dense", 0.4))
    plain, explained = (
        memory_report(stand.ask(stand.question(tenant, "Its mayor is Ilka Brandt?", explain=explain)).started.decision)
        for explain in (False, True)
    )
    fields = {"memory_id", "title", "rank", "retrieval_score", "score", "threshold", "passed"}
    for candidate in plain["candidates"]:
        assert set(candidate) == fields
    assert [candidate["rank"] for candidate in plain["candidates"]] == [0, 1]
    assert [candidate["passed"] for candidate in plain["candidates"]] == [True, False]
    for candidate in explained["candidates"]:
        assert tuple(candidate.pop("signals")) == FEATURES
    assert explained == plain
    assert plain["served_by_all"] == [plain["served_by"]]


def test_memories_that_pass_answer_together_up_to_max_active(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    for seed, (title, text) in enumerate([("Velmora", TOWN), ("Corvina", SHIP)], start=1):
        stand.publisher.publish(tenant, title, text, seed=seed)
    asked = "Tell me about Velmora and Corvina."
    alone = stand.ask(stand.question(tenant, asked))
    together = stand.ask(stand.question(tenant, asked, max_active=2))
    assert len(alone.started.decision.active) == 1
    decision = together.started.decision
    assert [one.memory_id for one in decision.active] == [one.memory_id for one in decision.candidates]
    assert decision.weights[0] == 1.0
    assert decision.weights[1] == pytest.approx(decision.active[1].score / decision.active[0].score)
    assert together.served_by == alone.served_by
    assert together.text != alone.text
    assert together.text == _merged(stand, stand.question(tenant, asked), decision)
    assert memory_report(decision)["served_by_all"] == [one.memory_id for one in decision.active]
    # Both stay in their slots while they speak, and none longer.
    assert stand.residency.in_use == 0


def test_where_only_one_passes_max_active_changes_nothing(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=samples_on("dense", 0.4))
    stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=samples_on("dense", 0.4))
    asked = "Its mayor is Ilka Brandt?"
    alone = stand.ask(stand.question(tenant, asked))
    assert alone.served_by is not None
    three = stand.ask(stand.question(tenant, asked, max_active=3))
    assert three.text == alone.text
    assert three.started.decision.active == alone.started.decision.active


def test_ids_and_collection_bound_the_candidates(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, collection="towns")
    ship = stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, collection="ships")
    asked = "Who is mayor of Velmora?"
    assert _candidates(stand.ask(stand.question(tenant, asked, ids=(ship.memory_id,)))) == {ship.memory_id}
    assert _candidates(stand.ask(stand.question(tenant, asked, collection="ships"))) == {ship.memory_id}
    assert _candidates(stand.ask(stand.question(tenant, asked, collection="none"))) == set()
    assert _candidates(stand.ask(stand.question(tenant, asked))) == {town.memory_id, ship.memory_id}


def test_a_memorys_id_as_the_model_forces_that_memory(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=SHUT)
    ship = stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=SHUT)
    for entry in (town, ship):
        answer = stand.ask(stand.question(tenant, "Who is mayor of Velmora?", model=entry.memory_id))
        assert answer.served_by == entry.memory_id


@pytest.mark.parametrize("how", ["model", "ids"])
def test_a_tenant_never_gets_anothers_memory_even_by_its_id(stand: Stand, how: str) -> None:
    owner, other = stand.publisher.tenant("owner"), stand.publisher.tenant("other")
    town = stand.publisher.publish(owner, "Velmora", TOWN, seed=1)
    stand.ask(stand.question(owner, "Velmora?"))
    plain = stand.ask(stand.question(other, "Velmora?"))
    assert plain.served_by is None
    assert _candidates(plain) == set()
    asked = (
        stand.question(other, "Velmora?", model=town.memory_id)
        if how == "model"
        else stand.question(other, "Velmora?", ids=(town.memory_id,))
    )
    with pytest.raises(NotFound):
        stand.service.admit(asked)


def test_an_unknown_model_memory_or_tenant_is_not_found(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    for model in ("gpt-4", "../../etc/passwd", new_id("mem")):
        with pytest.raises(NotFound):
            stand.service.admit(stand.question(tenant, "Hi", model=model))
    with pytest.raises(NotFound):
        stand.service.admit(stand.question(tenant, "Hi", ids=(new_id("mem"),)))
    with pytest.raises(NotFound):
        stand.service.admit(stand.question(new_id("tenant"), "Hi"))


def test_a_memory_that_is_not_ready_says_so(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    memory_id, _ = stand.publisher.admit(tenant, "Later")
    with pytest.raises(Conflict, match="pending"):
        stand.service.admit(stand.question(tenant, "Hi", model=memory_id))


def test_a_deleted_memory_is_gone_from_the_next_question_and_from_every_tier(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    assert stand.ask(stand.question(tenant, "Velmora?")).served_by == town.memory_id
    slot = stand.residency.slot_of(town.adapter_digest)
    assert slot is not None
    stand.publisher.delete(town, tenant)
    after = stand.ask(stand.question(tenant, "Velmora?"))
    assert after.served_by is None
    assert _candidates(after) == set()
    with pytest.raises(NotFound):
        stand.service.admit(stand.question(tenant, "Velmora?", model=town.memory_id))
    assert stand.residency.slot_of(town.adapter_digest) is None
    assert not stand.node_cache.contains(town.adapter_digest)
    assert stand.metric("latentbank_adapter_resident", tier="ram") == 0
    assert not any(a.any() or b.any() for a, b in stand.packed.read(slot).values())


def test_a_memory_published_meanwhile_serves_the_next_question(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    assert stand.ask(stand.question(tenant, "Velmora?")).served_by is None
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    assert stand.ask(stand.question(tenant, "Velmora?")).served_by == town.memory_id


def test_an_adapter_of_another_base_is_refused_and_counted(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, base_digest=f"sha256:{'0' * 64}")
    assert stand.ask(stand.question(tenant, "Velmora?")).served_by is None
    with pytest.raises(WrongBase, match="another base"):
        stand.service.admit(stand.question(tenant, "Velmora?", model=town.memory_id))
    assert stand.metric("latentbank_adapter_load_failures_total", reason="wrong_base") == 1


def test_greedy_answers_are_the_same_alone_in_a_batch_and_after_eviction(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    entries = [
        stand.publisher.publish(tenant, title, text, seed=seed)
        for seed, (title, text) in enumerate([("Velmora", TOWN), ("Corvina", SHIP), ("Heron", BIRD)])
    ]
    asked = "Tell me about Velmora, Corvina and the heron."
    alone = {e.memory_id: stand.ask(stand.question(tenant, asked, model=e.memory_id)) for e in entries}
    assert len({answer.text for answer in alone.values()}) == 3
    # Two slots for three memories: each round evicts, reloads, and reuses the prefix.
    for _ in range(2):
        for entry in entries:
            again = stand.ask(stand.question(tenant, asked, model=entry.memory_id))
            assert again.text == alone[entry.memory_id].text
    assert stand.metric("latentbank_adapter_evictions_total", tier="slot", reason="lru") > 0
    assert stand.metric("latentbank_adapter_evictions_total", tier="ram", reason="lru") > 0
    # Beside another candidate in the same batch.
    together = stand.ask(stand.question(tenant, asked, mode="force"))
    assert len(together.started.decision.candidates) == 2
    assert together.served_by is not None
    assert together.text == alone[together.served_by].text


def test_a_cold_and_a_warm_cache_give_the_same_answer_and_say_what_was_reused(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    question = stand.question(tenant, "Who is the mayor of Velmora by the river Asten?", model=town.memory_id)
    cold = stand.ask(question)
    warm = stand.ask(question)
    assert (cold.started.cached_tokens, warm.started.cached_tokens % 8) == (0, 0)
    assert warm.started.cached_tokens > 0
    assert warm.text == cold.text
    stand.prefix_cache.clear()
    assert stand.ask(question).text == cold.text


def test_another_tenant_finds_nothing_in_the_prefix_cache(stand: Stand) -> None:
    one, two = stand.publisher.tenant(), stand.publisher.tenant()
    asked = "Who is the mayor of Velmora by the river Asten?"
    stand.ask(stand.question(one, asked))
    assert stand.ask(stand.question(two, asked)).started.cached_tokens == 0


def test_loading_evicting_and_deleting_change_nothing_in_flight(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    town = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    others = [stand.publisher.publish(tenant, f"Corvina {i}", SHIP, seed=10 + i) for i in range(3)]
    question = replace(stand.question(tenant, "Velmora?", model=town.memory_id), max_tokens=60)
    expected = stand.ask(question).text
    flight = stand.flight(question)
    started = next(flight)
    assert isinstance(started, Started)
    texts = []
    for step, event in enumerate(flight):
        texts.append(getattr(event, "text", ""))
        if step == 2:
            for other in others:
                stand.ask(replace(stand.question(tenant, "Corvina?", model=other.memory_id), max_tokens=4))
        if step == 5:
            stand.publisher.delete(town, tenant)
            stand.banks.refresh_known()
            assert stand.residency.slot_of(town.adapter_digest) is not None
    assert "".join(texts) == expected
    assert stand.residency.slot_of(town.adapter_digest) is None


def test_sampling_with_a_seed_repeats_and_begins_after_the_activation_tokens(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    question = stand.question(tenant, "Velmora?")
    hot = replace(question, sampling=Sampling(temperature=1.5, seed=7))
    assert stand.ask(hot).text == stand.ask(hot).text
    assert stand.ask(hot).text != stand.ask(replace(hot, sampling=Sampling(temperature=1.5, seed=8))).text
    # As cold as can be, sampling finds the greedy answer: the row was rewound to the right place.
    cold = replace(question, sampling=Sampling(temperature=1e-4, seed=1))
    assert stand.ask(cold).text == stand.ask(question).text


def test_the_answer_stops_at_max_tokens_and_counts_them(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    for limit in (1, 3, 4, 5, 20):
        answer = stand.ask(replace(stand.question(tenant, "Velmora?"), max_tokens=limit))
        assert (answer.finished.reason, answer.finished.completion_tokens) == ("length", limit)


def test_a_prompt_beyond_the_window_is_refused(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    with pytest.raises(PromptTooLong):
        stand.service.admit(stand.question(tenant, "x" * 2100))
    nearly = stand.question(tenant, "x" * 1990)
    with pytest.raises(PromptTooLong):
        stand.service.admit(replace(nearly, max_tokens=64))
    assert stand.service.admit(replace(nearly, max_tokens=None)).max_tokens < 64


def test_a_pin_that_comes_while_a_request_waits_leaves_it_its_best_candidates(stand: Stand) -> None:
    tenant, other = stand.publisher.tenant(), stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    stand.publisher.publish(tenant, "Corvina", SHIP, seed=2)
    elsewhere = stand.publisher.publish(other, "Heron", BIRD, seed=3)
    flight = stand.flight(stand.question(tenant, "Its mayor is Ilka Brandt?"))
    stand.residency.pin(elsewhere.adapter_digest)
    started = next(flight)
    assert isinstance(started, Started)
    assert [judged.title for judged in started.decision.candidates] == ["Velmora"]


def test_a_request_that_is_left_gives_its_slots_back(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    flight = stand.flight(stand.question(tenant, "Velmora?"))
    next(flight)
    assert stand.residency.in_use == 1
    flight.close()
    assert stand.residency.in_use == 0


def _candidates(answer: Answered) -> set[str]:
    return {candidate.memory_id for candidate in answer.started.decision.candidates}


def _merged(stand: Stand, question: Question, decision: Decision) -> str:
    """What the base says when the weighted adapters are merged into its weights for the answer's tokens."""
    assert not isinstance(question.asked, str)
    prompt = stand.base.chat.prompt(question.asked)
    model = stand.base.model
    (prefix,) = prefill(model, [prompt.prefix])
    for one, weight in zip(decision.active, decision.weights, strict=True):
        slot = stand.residency.slot_of(one.digest)
        assert slot is not None
        for layer in stand.packed.layers.values():
            layer.base.weight += weight * layer.scale[slot] * layer.b[slot] @ layer.a[slot]
    (row,) = write(
        model, [prefix], [prompt.activation], limit=question.max_tokens or 1, end_tokens=stand.base.end_tokens
    )
    return stand.base.chat.decode(row.tokens)


def _reference(stand: Stand, question: Question) -> str:
    """What `transformers` itself generates with the base."""
    import torch

    assert not isinstance(question.asked, str)
    prompt = stand.base.chat.prompt(question.asked)
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    out = stand.base.model.generate(ids, max_new_tokens=question.max_tokens, do_sample=False)
    return stand.base.chat.decode(out[0, ids.shape[1] :].tolist())
