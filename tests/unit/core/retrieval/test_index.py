from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import AdapterInvalid
from core.retrieval.index import BankIndex, MemoryIndex, load_index, retrieval_signals, rounded, save_index


def vector(*values: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=-1)


def memory(memory_id: str, *entries: tuple[str, Tensor], title: str = "") -> MemoryIndex:
    return MemoryIndex(memory_id, title, [text for text, _ in entries], torch.stack([vector for _, vector in entries]))


TOWN = memory("mem_a", ("The lighthouse is of green basalt.", vector(1, 0, 0)), ("Eel is smoked.", vector(1, 1, 0)))
SERVICE = memory("mem_b", ("The service listens on port 7311.", vector(0, 1, 0)))
KETTLE = memory("mem_c", ("The kettle boils in 90 seconds.", vector(0, 0, 1)))


def not_asked(texts: Sequence[str]) -> Tensor:
    raise AssertionError(f"nothing was to be encoded, least of all {texts}")


def test_dense_is_the_best_cosine_and_lexical_the_share_of_words() -> None:
    signals = retrieval_signals("Is the lighthouse red?", vector(1, 1, 0), TOWN, not_asked)
    assert signals.dense == pytest.approx(1.0)
    assert signals.lexical == pytest.approx(0.5)


def test_matched_compares_the_question_without_the_topic_to_what_self_study_asked_and_answered() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> Tensor:
        asked.extend(texts)
        return vector(0, 3, 4)[None]

    statements = torch.stack([vector(0, 1, 0), vector(1, 0, 0)])
    index = MemoryIndex("mem_a", "", TOWN.entries, TOWN.embeddings, "the Saltmere lighthouse", statements)
    signals = retrieval_signals("Is Saltmere's lighthouse red?", vector(1, 0, 0), index, encode)
    assert asked == ["Is red?"]
    assert signals.matched == pytest.approx(0.6)
    assert signals.dense == pytest.approx(1.0)


def test_a_question_that_does_not_name_the_topic_is_not_encoded_again() -> None:
    index = MemoryIndex("mem_a", "", TOWN.entries, TOWN.embeddings, "Saltmere", torch.stack([vector(0, 1, 0)]))
    assert retrieval_signals("Is it red?", vector(1, 0, 0), index, not_asked).matched == pytest.approx(0.0)


def test_without_statements_what_is_matched_are_the_entries() -> None:
    signals = retrieval_signals("Is it red?", vector(1, 1, 0), TOWN, not_asked)
    assert signals.matched == signals.dense


def test_an_empty_bank_proposes_nothing() -> None:
    assert BankIndex([]).search("Anything?", vector(1, 0, 0), 3) == []
    assert len(BankIndex([])) == 0


def test_hits_are_ranked_and_cut_at_top_k() -> None:
    bank = BankIndex([KETTLE, SERVICE, TOWN])
    hits = bank.search("Hm", vector(0.2, 1, 0.5), 2)
    assert [hit.memory_id for hit in hits] == ["mem_b", "mem_a"]
    assert [hit.rank for hit in hits] == [0, 1]
    assert hits[0].score >= hits[1].score
    assert bank.search("Hm", vector(1, 0, 0), 0) == []


def test_a_rare_word_decides_between_memories_that_look_alike_to_the_encoder() -> None:
    twins = [
        memory(f"mem_{number}", (f"The service listens on port {number}.", vector(1, 0.1 * i, 0)))
        for i, number in enumerate((7311, 9200, 8080))
    ]
    hits = BankIndex(twins).search("What listens on port 8080?", vector(1, 0, 0), 1)
    assert hits[0].memory_id == "mem_8080"


def test_a_search_may_be_restricted_to_some_memories() -> None:
    bank = BankIndex([KETTLE, SERVICE, TOWN])
    hits = bank.search("Is the lighthouse of basalt?", vector(1, 0, 0), 3, ids={"mem_b", "mem_c", "mem_unknown"})
    assert {hit.memory_id for hit in hits} == {"mem_b", "mem_c"}
    assert bank.search("?", vector(1, 0, 0), 3, ids=[]) == []


def test_ties_go_to_the_lower_memory_id_whatever_the_order() -> None:
    twins = [memory(memory_id, ("same words", vector(1, 0, 0))) for memory_id in ("mem_z", "mem_k", "mem_b")]
    for order in (twins, twins[::-1]):
        hits = BankIndex(order).search("same words", vector(1, 0, 0), 3)
        assert [hit.memory_id for hit in hits] == ["mem_b", "mem_k", "mem_z"]


def test_words_that_no_memory_has_change_nothing() -> None:
    assert len(BankIndex([TOWN, KETTLE]).search("zyzzyva", vector(1, 0, 0), 2)) == 2
    assert len(BankIndex([memory("mem_a", ("...", vector(1, 0, 0)))]).search("zyzzyva", vector(1, 0, 0), 2)) == 1


def test_a_large_bank_finds_the_one_memory_that_matches() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(2000, 16, generator=generator), dim=-1)
    bank = BankIndex([memory(f"mem_{i:04}", (f"entry {i}", vectors[i])) for i in range(2000)])
    hits = bank.search("Something else entirely", vectors[1234], 3)
    assert hits[0].memory_id == "mem_1234"
    assert bank.search("entry 77", vectors[77], 1)[0].memory_id == "mem_0077"


def test_an_index_survives_saving(tmp_path: Path) -> None:
    entries = ("Grün — 7", "zwei")
    vectors = torch.stack([vector(1, 0, 0), vector(0, 1, 0)])
    index = MemoryIndex("mem_a", "Ein Titel", entries, vectors, "Titel", vector(1, 0.3, 0)[None])
    save_index(tmp_path, index, "pypi:some/encoder", study={"pairs": 3})
    loaded = load_index(tmp_path, encoder="pypi:some/encoder")
    assert (loaded.memory_id, loaded.title, tuple(loaded.entries)) == ("mem_a", "Ein Titel", ("Grün — 7", "zwei"))
    assert loaded.topic == "Titel"
    assert torch.equal(loaded.embeddings, index.embeddings)
    assert torch.equal(loaded.statements, rounded(index.statements))
    torch.testing.assert_close(loaded.statements, index.statements, atol=1 / 254, rtol=0)
    assert loaded.vocabulary == index.vocabulary
    assert json.loads((tmp_path / "index.json").read_text())["study"] == {"pairs": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "index.safetensors"]


def test_an_index_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_index(tmp_path, TOWN, "pypi:one/encoder")
    with pytest.raises(AdapterInvalid, match="pypi:one/encoder"):
        load_index(tmp_path, encoder="pypi:another/encoder")


@pytest.mark.parametrize("damage", ["missing", "not json", "fewer entries", "not bytes", "not text"])
def test_a_damaged_index_is_refused(tmp_path: Path, damage: str) -> None:
    save_index(tmp_path, TOWN, "e")
    entries = tmp_path / "index.json"
    if damage == "missing":
        (tmp_path / "index.safetensors").unlink()
    elif damage == "not json":
        entries.write_text("{")
    elif damage == "fewer entries":
        entries.write_text(json.dumps({**json.loads(entries.read_text()), "entries": ["one"]}))
    elif damage == "not text":
        entries.write_text(json.dumps({**json.loads(entries.read_text()), "entries": [1, 2]}))
    else:
        save_file({"embeddings": TOWN.embeddings, "statements": TOWN.statements}, tmp_path / "index.safetensors")
    with pytest.raises(AdapterInvalid):
        load_index(tmp_path)
