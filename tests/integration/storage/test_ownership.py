from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import Misconfigured
from core.storage.memory import MemoryStore
from core.storage.ownership import MARKER, claim_directory, claim_store
from core.truth.database import Database
from core.truth.identity import identity_of
from tests.fixtures.truth import add_tenant


def test_a_truth_has_one_id(truth: Database) -> None:
    add_tenant(truth)
    with truth.begin() as connection:
        first = identity_of(connection)
    with truth.begin() as connection:
        assert identity_of(connection) == first
    assert first.startswith("truth_")


def test_a_store_belongs_to_the_truth_that_marked_it_first() -> None:
    store = MemoryStore()
    claim_store(store, "truth_a")
    claim_store(store, "truth_a")
    with pytest.raises(Misconfigured, match="truth_a"):
        claim_store(store, "truth_b")
    store.delete(MARKER)
    claim_store(store, "truth_b")


@pytest.mark.parametrize("marker", [b"", b"[]", b"{}", b"\xff"])
def test_a_marker_that_can_not_be_read_is_somebody_elses(marker: bytes) -> None:
    store = MemoryStore()
    store.put(MARKER, marker)
    with pytest.raises(Misconfigured, match="unreadable"):
        claim_store(store, "truth_a")


def test_a_node_cache_belongs_to_the_truth_that_marked_it_first(tmp_path: Path) -> None:
    claim_directory(tmp_path, "truth_a")
    claim_directory(tmp_path, "truth_a")
    with pytest.raises(Misconfigured, match="NODE_CACHE_DIR"):
        claim_directory(tmp_path, "truth_b")
