from __future__ import annotations

import hashlib
import json
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from core.errors import ObjectMissing
from core.storage.memory import MemoryStore
from core.truth.records import ContextRecord
from tests.fixtures.published import WordEncoder
from tests.unit.workers.inference.conftest import Clock
from workers.inference.banks.text_cache import TextCache, is_salt_of_text, salt_of
from workers.inference.tiers.failures import FIRST_PAUSE_SECONDS


class Later(Executor):
    """Runs what it was given when a test says so."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> int:
        """How many tasks there were."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task()
        return len(tasks)


class Bench:
    """A cache with its store, its thread and whom it tells of what it forgets."""

    def __init__(self, max_bytes: int = 10**6) -> None:
        self.store, self.later, self.clock = MemoryStore(), Later(), Clock()
        self.forgotten: list[str] = []
        self.cache = TextCache(
            self.store,
            WordEncoder().encode,
            max_bytes=max_bytes,
            forgotten=self.forgotten.append,
            executor=self.later,
            clock=self.clock,
        )

    def record(self, name: str, tenant: str = "tenant_a", text: str = "Velmora is a town.") -> ContextRecord:
        payload = json.dumps({"kind": "text", "title": name, "text": text}).encode()
        self.store.put(f"contexts/{name}", payload)
        sha256 = hashlib.sha256(payload).hexdigest()
        return ContextRecord(f"mem_{name}", tenant, "default", name, f"contexts/{name}", sha256, len(payload))

    def have(self, record: ContextRecord, *, indexed: bool = False) -> None:
        future = self.cache.get(record, indexed=indexed)
        self.later.run()
        assert future.result(timeout=0).record == record


def test_however_many_ask_one_load_runs_and_then_none() -> None:
    bench = Bench()
    record = bench.record("a")
    futures = [bench.cache.get(record, indexed=True) for _ in range(3)]
    assert bench.later.run() == 1
    assert len({id(future.result(timeout=0)) for future in futures}) == 1
    assert bench.cache.get(record, indexed=True).done()
    assert bench.cache.get(record, indexed=False).result(timeout=0).text == "Velmora is a town."
    assert bench.later.run() == 0


def test_only_what_is_to_be_searched_is_indexed_and_its_index_stays() -> None:
    bench = Bench()
    record = bench.record("a")
    bench.have(record)
    assert bench.cache.get(record, indexed=False).result(timeout=0).index is None
    bench.have(record, indexed=True)
    index = bench.cache.get(record, indexed=False).result(timeout=0).index
    assert index is not None
    assert set(index.entries) == {"a", "Velmora is a town."}
    assert bench.forgotten == []


def test_the_least_recently_used_goes_first_and_its_bytes_with_it() -> None:
    probe = Bench()
    probe.have(probe.record("a"), indexed=True)
    bench = Bench(max_bytes=2 * probe.cache.nbytes)
    a, b, c = (bench.record(name) for name in "abc")
    for record in (a, b, a, c):
        bench.have(record, indexed=True)
    assert bench.forgotten == [salt_of(b)]
    assert bench.cache.salts == {salt_of(a), salt_of(c)}
    assert bench.cache.nbytes == 2 * probe.cache.nbytes


def test_a_text_larger_than_the_budget_is_served_and_not_kept() -> None:
    bench = Bench(max_bytes=10)
    bench.have(bench.record("a"))
    assert (bench.cache.salts, bench.cache.nbytes, bench.forgotten) == (frozenset(), 0, [])


def test_what_failed_is_tried_again_after_a_pause() -> None:
    bench = Bench()
    record = bench.record("a")
    payload = bench.store.get(record.context_key)
    bench.store.delete(record.context_key)
    for tries in (1, 0):
        future = bench.cache.get(record, indexed=False)
        assert bench.later.run() == tries
        with pytest.raises(ObjectMissing):
            future.result(timeout=0)
    bench.store.put(record.context_key, payload)
    bench.clock.now += FIRST_PAUSE_SECONDS
    bench.have(record)


def test_keeping_is_by_tenant_and_searched_texts_have_to_be_named_as_such() -> None:
    bench = Bench()
    kept, gone, searched, published = (bench.record(name) for name in ("kept", "gone", "searched", "published"))
    other = bench.record("other", tenant="tenant_b")
    for record in (kept, gone, other):
        bench.have(record)
    for record in (searched, published):
        bench.have(record, indexed=True)
    assert bench.cache.unchecked() == {"tenant_a", "tenant_b"}
    salts = [salt_of(record) for record in (kept, searched, published)]
    bench.cache.keep_only("tenant_a", salts, [salt_of(searched)])
    assert bench.cache.salts == {salt_of(kept), salt_of(searched), salt_of(other)}
    assert sorted(bench.forgotten) == sorted([salt_of(gone), salt_of(published)])
    assert bench.cache.unchecked() == {"tenant_b"}
    assert bench.cache.known("tenant_a") == {"mem_kept", "mem_searched"}


def test_what_is_forgotten_while_it_loads_is_not_kept_when_it_comes() -> None:
    bench = Bench()
    record, lost = bench.record("a"), bench.record("lost")
    bench.store.delete(lost.context_key)
    futures = [bench.cache.get(one, indexed=True) for one in (record, lost)]
    assert bench.cache.known("tenant_a") == {"mem_a", "mem_lost"}
    bench.cache.keep_only("tenant_a", (), ())
    bench.later.run()
    assert futures[0].result(timeout=0).text
    assert isinstance(futures[1].exception(timeout=0), ObjectMissing)
    assert bench.cache.known("tenant_a") == set()


def test_a_texts_salt_is_no_tenants_and_changes_with_the_text() -> None:
    bench = Bench()
    one, other = bench.record("a"), bench.record("a", text="Another.")
    assert is_salt_of_text(salt_of(one))
    assert not is_salt_of_text("tenant_a")
    assert salt_of(one) != salt_of(other)
