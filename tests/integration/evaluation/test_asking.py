from __future__ import annotations

from pathlib import Path

import pytest

from core.base_model.loading import LoadedBase
from core.encryption.sealed_store import open_sealed_store
from core.evaluation.answering import Answerer
from core.evaluation.asking import Routing, ask_suite
from core.evaluation.bank import EvaluatedBank, pack, read_bank
from core.evaluation.judging import NAMES
from core.evaluation.suite import Document, Question, Suite
from core.settings import Settings, StorageSettings
from core.truth.database import Database
from tests.fixtures.published import Publisher, WordEncoder, samples_on

TEXTS = {
    "town": "Orsk lies on the river Tessle. Its customs house is built of slate.",
    "kettle": "The kettle holds two litres. Its handle is made of walnut.",
    "club": "The club meets on Thursdays. Its president keeps bees.",
}


def suite(*failed: str) -> Suite:
    documents = tuple(Document(id_, "text", f"The {id_}", text) for id_, text in TEXTS.items())
    failing = tuple(Document(id_, "text", f"The {id_}", "Nobody could read this.") for id_ in failed)
    questions = (
        Question("town/0", "document", "direct", "What is the customs house of Orsk built of?", ("slate",), ("town",)),
        Question("kettle/0", "document", "multi", "What is the handle of the kettle?", ("walnut",), ("kettle",)),
        Question("town/near-0", "near_miss", "near_miss", "Who built the customs house of Orsk?", (), ("town",)),
        Question("g/0", "general", "general", "How many legs has a spider?", ("eight",), ()),
        Question("x/0", "cross", "cross", "Does the kettle or the club keep bees?", ("club",), ("kettle", "club")),
        *(Question(f"{id_}/0", "document", "direct", "Who?", ("nobody",), (id_,)) for id_ in failed),
    )
    return Suite("suite", (*documents, *failing), questions)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    serving = Settings().serving.model_copy(update={"node_cache_dir": tmp_path / "node-cache"})
    update = {"data_dir": tmp_path, "database_url": "", "storage": StorageSettings(), "serving": serving}
    return Settings().model_copy(update=update)


@pytest.fixture
def bank(settings: Settings, embedded_truth: Database, loaded_tiny: LoadedBase) -> EvaluatedBank:
    """Three memories with random adapters, whose gate opens where a question is like the text."""
    encoder = WordEncoder()
    publisher = Publisher(embedded_truth, open_sealed_store(settings, embedded_truth), loaded_tiny.description, encoder)
    tenant = publisher.tenant()
    documents = {}
    for seed, (id_, text) in enumerate(TEXTS.items()):
        memory = publisher.publish(tenant, f"The {id_}", text, seed=seed, samples=samples_on("dense", 0.5))
        documents[memory.memory_id] = id_
    publisher.publish(tenant, "Of another suite", "Orsk, Orsk, the customs house of Orsk.", seed=9)
    return read_bank(settings, tenant, documents, loaded_tiny.description, encoder.reference)


def test_the_bank_holds_the_suites_memories_alone(bank: EvaluatedBank) -> None:
    assert set(bank.members) == set(TEXTS)
    assert len(bank.index) == 3
    assert not bank.refused
    for id_, member in bank.members.items():
        assert bank.document_of(member.memory_id) == id_


def test_a_suite_is_asked_under_every_condition(bank: EvaluatedBank, loaded_tiny: LoadedBase) -> None:
    adapters, slots = pack(loaded_tiny.model, bank)
    told: list[tuple[str, int, int]] = []
    records, judgements = ask_suite(
        suite("lost"),
        bank,
        WordEncoder(),
        Answerer(loaded_tiny, adapters, slots),
        Routing(top_k=2, seed=0),
        lambda what, done, total: told.append((what, done, total)),
    )
    town, kettle, near, general, cross, lost = records
    conditions = {"no_memory", "full_context", "rag", "wrong_adapter", "oracle", "routed"}
    assert set(town.answers) == conditions
    assert town.candidates[0] == "town"
    assert len(town.candidates) == 2
    assert town.chosen == ("town",)
    assert town.answers["routed"] == town.answers["oracle"] != town.answers["no_memory"]
    assert town.answers["wrong_adapter"] != town.answers["oracle"]
    assert town.answers["rag"] == town.answers["full_context"]
    assert kettle.candidates[0] == "kettle"
    assert set(near.answers) == {"routed"}
    assert near.chosen == ("town",)
    assert set(general.answers) == {"no_memory", "routed"}
    assert set(cross.answers) == conditions - {"wrong_adapter"}
    assert lost.answers["oracle"] == ""
    assert lost.answers["full_context"]
    assert ("answering", told[-1][2], told[-1][2]) == told[-1]

    of_town = {j.pair.document_id: j for j in judgements if j.pair.question_id == "town/0" and j.pair.kind != "wrong"}
    assert of_town["town"].pair.kind == "own"
    assert of_town["town"].pair.rank == 0
    assert of_town["town"].passes
    assert all(len(j.features) == len(NAMES) for j in judgements)
    assert {j.pair.kind for j in judgements} == {"own", "near_miss", "wrong", "unrelated", "general", "cross"}
    assert not any(j.passes for j in judgements if j.pair.kind in ("general", "wrong"))


def test_a_bank_without_memories_leaves_everything_to_the_base(
    settings: Settings, embedded_truth: Database, loaded_tiny: LoadedBase
) -> None:
    encoder = WordEncoder()
    tenant = Publisher(
        embedded_truth, open_sealed_store(settings, embedded_truth), loaded_tiny.description, encoder
    ).tenant()
    empty = read_bank(settings, tenant, {}, loaded_tiny.description, encoder.reference)
    adapters, slots = pack(loaded_tiny.model, empty)
    records, judgements = ask_suite(
        suite(), empty, encoder, Answerer(loaded_tiny, adapters, slots), Routing(3, 0), lambda *_: None
    )
    assert judgements == []
    town = records[0]
    assert town.answers["oracle"] == ""
    assert town.answers["routed"] == town.answers["no_memory"]
    # Text retrieval needs no memory, and does not suffer where there is none.
    assert town.answers["rag"] == town.answers["full_context"]
