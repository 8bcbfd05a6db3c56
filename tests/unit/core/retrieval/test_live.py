from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.retrieval import cells, live, postings
from core.retrieval.compact import Compact, compact_of, representatives
from core.retrieval.index import BankIndex, MemoryIndex, rounded
from core.retrieval.lexical import terms
from core.retrieval.live import LiveIndex

WORDS = ("lighthouse", "basalt", "kettle", "port", "eel", "river", "mayor", "7311")
DIMENSION = 16


def vectors(seed: int, count: int) -> torch.Tensor:
    drawn = torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed))
    return rounded(torch.nn.functional.normalize(drawn, dim=-1))


def memory(memory_id: str, seed: int, count: int = 2) -> MemoryIndex:
    chance = np.random.default_rng(seed)
    entries = [" ".join(chance.choice(WORDS, 3)) for _ in range(count)]
    return MemoryIndex(memory_id, "", entries, vectors(seed, count))


def compact(index: MemoryIndex) -> Compact:
    as_bytes = np.rint(index.embeddings.numpy() * 127).astype(np.int8)
    return compact_of(as_bytes, [term for entry in index.entries for term in terms(entry)])


def live_of(memories: Sequence[MemoryIndex], collection: str = "all") -> LiveIndex:
    index = LiveIndex()
    index.change([(one.memory_id, collection, compact(one)) for one in memories])
    return index


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.one_of(st.none(), st.integers(0, 50))), max_size=60),
    st.integers(0, 100),
    st.lists(st.sampled_from(WORDS), max_size=4),
    st.one_of(st.none(), st.sets(st.integers(0, 11))),
)
def test_after_any_changes_a_search_finds_what_an_index_made_anew_finds(
    changes: list[tuple[int, int | None]], seed: int, asked: list[str], some: set[int] | None
) -> None:
    known: dict[str, MemoryIndex] = {}
    index = LiveIndex()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "_FEW_DEAD", 3)
        patch.setattr(postings, "TAIL", 10)
        for number, made_of in changes:
            memory_id = f"mem_{number}"
            if made_of is None:
                known.pop(memory_id, None)
                index.change((), [memory_id])
            else:
                known[memory_id] = memory(memory_id, made_of)
                index.change([(memory_id, "all", compact(known[memory_id]))])
    ids = None if some is None else [f"mem_{number}" for number in some]
    query, embedding = " ".join(asked), vectors(seed, 1)[0]
    found = index.search(query, embedding, 5, ids)
    anew = live_of(list(known.values())).search(query, embedding, 5, ids)
    exact = BankIndex(list(known.values())).search(query, embedding, 12, ids)
    # Memories of the same words differ by a rounding, which decides among them.
    scores = {hit.memory_id: hit.score for hit in exact}
    for hits in (found, anew):
        assert [hit.rank for hit in hits] == list(range(min(5, len(exact))))
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in exact[:5]], abs=1e-5)
        assert [hit.score for hit in hits] == pytest.approx([scores[hit.memory_id] for hit in hits], abs=1e-5)
    assert len(index) == len(known)


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "EXACT", 64)
    monkeypatch.setattr(cells, "_ROWS_OF_CELL", 16)
    monkeypatch.setattr(cells, "_PROBED_ROWS", 128)
    monkeypatch.setattr(live, "_WIDTH", 16)
    monkeypatch.setattr(live, "_BY_WORDS", 32)


def clustered(count: int) -> list[MemoryIndex]:
    """Memories of some subjects, each of a few near vectors."""
    chance = torch.Generator().manual_seed(7)
    subjects = torch.randn(20, DIMENSION, generator=chance)
    made = []
    for i in range(count):
        near = subjects[i % 20] + 0.4 * torch.randn(3, DIMENSION, generator=chance)
        entries = [f"{WORDS[i % 8]} {i}"] * 3
        made.append(MemoryIndex(f"mem_{i:04}", "", entries, rounded(torch.nn.functional.normalize(near, dim=-1))))
    return made


@pytest.mark.usefixtures("small_cells")
def test_a_large_bank_finds_nearly_all_that_exact_search_finds_and_nothing_that_is_gone() -> None:
    memories = clustered(600)
    index = LiveIndex()
    for start in range(0, 600, 50):
        index.change([(one.memory_id, "all", compact(one)) for one in memories[start : start + 50]])
    gone, kept = memories[::5], [one for i, one in enumerate(memories) if i % 5]
    index.change((), [one.memory_id for one in gone])
    exact, same = BankIndex(kept), 0
    for one in kept[::10]:
        query = f"what of {one.entries[0]}?"
        found = {hit.memory_id for hit in index.search(query, one.embeddings[0], 5)}
        assert one.memory_id in found
        assert not found & {other.memory_id for other in gone}
        same += len(found & {hit.memory_id for hit in exact.search(query, one.embeddings[0], 5)})
    assert same / (5 * len(kept[::10])) >= 0.95


@pytest.mark.usefixtures("small_cells")
def test_a_filter_that_leaves_few_of_many_still_finds_them() -> None:
    memories = clustered(600)
    index = live_of(memories)
    index.change([("mem_apart", "rare", compact(memories[3]))])
    asked = memories[4].embeddings[0]
    assert [hit.memory_id for hit in index.search("?", asked, 3, collection="rare")] == ["mem_apart"]
    assert [hit.memory_id for hit in index.search("?", asked, 3, ["mem_0599"])] == ["mem_0599"]
    assert index.search("?", asked, 3, collection="unknown") == []
    some = [one.memory_id for one in memories[::4]]
    expected = BankIndex(memories[::4]).search("?", asked, 3)
    assert [hit.memory_id for hit in index.search("?", asked, 3, some)] == [hit.memory_id for hit in expected]


def test_what_is_deleted_leaves_no_vector_behind() -> None:
    index = live_of([memory("mem_a", 1), memory("mem_b", 2)])
    index.change((), ["mem_a"])
    assert "mem_a" not in index
    assert index._cells is not None
    assert np.count_nonzero(index._cells._rows.view.any(axis=1)) == 2


@pytest.mark.parametrize("tail", [0, 1000])
def test_what_is_deleted_or_replaced_leaves_no_word_behind(tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "TAIL", tail)
    gone, kept, new = (MemoryIndex(one, "", [f"{one} eel"], vectors(1, 1)) for one in ("gone", "kept", "new"))
    index = live_of([gone, MemoryIndex("new", "", ["older"], vectors(2, 1)), kept])
    index.change([("new", "all", compact(new))], ["gone"])
    words, _, _ = index._postings._all()
    assert sorted(words) == sorted([*compact(kept).terms, *compact(new).terms])
    assert set(index._postings._keys) <= set(words)


def test_the_first_representative_is_of_the_many_and_the_next_of_what_is_far_from_it() -> None:
    rows = np.array([[127, 0], [126, 12], [126, -12], [0, 127]], np.int8)
    first, second = representatives(rows, 2)
    assert first in (0, 1, 2)
    assert second == 3
    assert sorted(representatives(rows)) == [0, 1, 2, 3]
