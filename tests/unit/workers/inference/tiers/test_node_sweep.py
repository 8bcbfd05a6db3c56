from __future__ import annotations

from pathlib import Path

import pytest

from core.storage.publication import read_manifest
from core.truth.database import Database
from core.truth.records import BankEntry
from tests.unit.workers.inference.conftest import Stand
from workers.inference.tiers import node_sweep
from workers.inference.tiers.node_sweep import NodeSweep

TEXT = "Velmora is a town."


@pytest.fixture
def sweep(stand: Stand, database: Database) -> NodeSweep:
    return NodeSweep(database, stand.residency, 30.0, stand.clock)


def fetched_by_another(stand: Stand, seed: int) -> tuple[str, BankEntry]:
    """A memory whose adapter another process of the node brought here, so that no bank of this worker holds it."""
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", TEXT, seed=seed)
    stand.node_cache.fetch(read_manifest(stand.publisher.store, entry.manifest_key))
    return tenant, entry


def on_disk(directory: Path, entry: BankEntry) -> bool:
    named = entry.adapter_digest.removeprefix("sha256:")
    return any(named in str(path) for path in (directory / "node-cache").rglob("*"))


def test_what_is_deleted_while_no_worker_holds_its_bank_leaves_the_disk(
    stand: Stand, sweep: NodeSweep, tmp_path: Path
) -> None:
    tenant, deleted = fetched_by_another(stand, 1)
    _, other = fetched_by_another(stand, 2)
    assert sweep.sweep() == 0
    stand.publisher.delete(deleted, tenant)
    stand.banks.refresh_known()
    assert on_disk(tmp_path, deleted), "the banks that are held know nothing of it"
    stand.clock.now = 31.0
    assert sweep.sweep() == 1
    assert not on_disk(tmp_path, deleted)
    assert on_disk(tmp_path, other)


def test_an_old_version_leaves_the_disk_and_the_new_one_stays(stand: Stand, sweep: NodeSweep, tmp_path: Path) -> None:
    tenant, old = fetched_by_another(stand, 1)
    new = stand.publisher.revise(tenant, old, TEXT, seed=2)
    stand.node_cache.fetch(read_manifest(stand.publisher.store, new.manifest_key))
    assert sweep.sweep() == 1
    assert not on_disk(tmp_path, old)
    assert on_disk(tmp_path, new)


def test_it_asks_in_batches_and_no_more_often_than_it_shall(
    stand: Stand, sweep: NodeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_sweep, "AT_ONCE", 2)
    memories = [fetched_by_another(stand, seed) for seed in range(5)]
    for tenant, entry in memories[1:4]:
        stand.publisher.delete(entry, tenant)
    assert sweep.sweep() == 3
    assert [on_disk(tmp_path, entry) for _, entry in memories] == [True, False, False, False, True]
    stand.publisher.delete(memories[0][1], memories[0][0])
    stand.clock.now = 29.0
    assert sweep.sweep() == 0
    stand.clock.now = 30.0
    assert sweep.sweep() == 1


def test_a_truth_that_does_not_answer_removes_nothing_and_is_asked_again_at_the_next_beat(
    stand: Stand, sweep: NodeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, entry = fetched_by_another(stand, 1)
    stand.publisher.delete(entry, tenant)

    def away(*_: object) -> set[str]:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(node_sweep, "live_digests", away)
        with pytest.raises(ConnectionError):
            sweep.sweep()
    assert on_disk(tmp_path, entry)
    assert sweep.sweep() == 1
    assert not on_disk(tmp_path, entry)
