"""A whole service on the tiny Llama, with all its tiers, without HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.prefix_cache import PrefixCache
from core.errors import LatentBankError
from core.metrics import InferenceMetrics
from core.settings import ServingSettings
from core.storage.memory import MemoryStore
from core.storage.node_cache import NodeCache
from core.truth.database import Database
from tests.fixtures.published import TARGETS, Publisher, WordEncoder
from workers.inference.banks.bank import Banks
from workers.inference.banks.bank_gates import BankGates
from workers.inference.banks.text_cache import TextCache
from workers.inference.banks.texts import Texts
from workers.inference.question import Delta, Event, Finished, Question, Scope, Started
from workers.inference.scheduler import Engine, Outcome, Work
from workers.inference.service import Service
from workers.inference.tiers.residency import Residency

ADAPTER_BYTES = 24_576
"""Of one in RAM, of the tiny Llama at rank 4."""
RAM_BYTES = 2 * ADAPTER_BYTES + ADAPTER_BYTES * 2 // 3
TEXT_BYTES = 1024**2


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer, read to its end."""

    text: str
    started: Started
    finished: Finished

    @property
    def served_by(self) -> str | None:
        served = self.started.decision.served
        return served.memory_id if served else None


class Flight(Iterator[Event]):
    """One request's events; reading them turns the engine."""

    def __init__(self, engine: Engine, tenant_id: str, work: Work, adapters: Collection[str] = ()) -> None:
        self._engine = engine
        self._arrived: deque[Outcome] = deque()
        self.done = False
        self.ticket = engine.submit(tenant_id, work, self._arrived.append, "request", adapters)

    def __next__(self) -> Event:
        while not self._arrived:
            self._engine.turn()
        outcome = self._arrived.popleft()
        if outcome is None:
            raise StopIteration
        if isinstance(outcome, LatentBankError):
            raise outcome
        return outcome

    def arrived(self) -> list[Event]:
        """What has come since the last time, without turning the engine; raises what went wrong."""
        events = []
        while self._arrived:
            outcome = self._arrived.popleft()
            if outcome is None or isinstance(outcome, LatentBankError):
                self.done = True
            if isinstance(outcome, LatentBankError):
                raise outcome
            if outcome is not None:
                events.append(outcome)
        return events

    def close(self) -> None:
        """The client goes away."""
        self.ticket.cancel()
        self._engine.turn()


@dataclass(frozen=True, slots=True, eq=False)
class Stand:
    """The parts of a worker under test."""

    service: Service
    publisher: Publisher
    registry: CollectorRegistry
    base: LoadedBase
    packed: PackedAdapters
    residency: Residency
    banks: Banks
    gates: BankGates
    node_cache: NodeCache
    prefix_cache: PrefixCache
    text_cache: TextCache
    background: Executor
    engine: Engine
    clock: Clock

    def settle(self) -> None:
        """Until the gates that were asked for are fitted."""
        self.background.submit(lambda: None).result(timeout=30)

    def question(self, tenant_id: str, text: str, *, model: str | None = None, **scope: object) -> Question:
        asked = ({"role": "user", "content": text},)
        return Question(tenant_id, model or self.base.description.name, asked, Scope(**scope), max_tokens=24)  # type: ignore[arg-type]

    def ask(self, question: Question) -> Answered:
        started, finished, texts = None, None, []
        for event in self.flight(question):
            match event:
                case Started():
                    started = event
                case Delta(text):
                    texts.append(text)
                case Finished():
                    finished = event
        assert started is not None
        assert finished is not None
        return Answered("".join(texts), started, finished)

    def flight(self, question: Question) -> Flight:
        """An answer under way, among all others that are."""
        admitted = self.service.admit(question)
        return Flight(self.engine, question.tenant_id, self.service.answer(admitted), admitted.digests)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'truth.db'}")
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def stand(loaded_tiny: LoadedBase, database: Database, tmp_path: Path) -> Stand:
    """A worker with two slots beside the base's, so that three memories already push each other out."""
    return make_stand(loaded_tiny, database, tmp_path)


def make_stand(
    base: LoadedBase,
    database: Database,
    directory: Path,
    *,
    slots: int = 3,
    node_cache_bytes: int = 10**8,
    prefix_cache_bytes: int = 64 * 4096,
    background: Executor | None = None,
) -> Stand:
    """All of a worker but HTTP, its node cache in `directory`; its engine is turned by whoever reads an answer."""
    registry = CollectorRegistry()
    metrics = InferenceMetrics(registry)
    store = MemoryStore()
    encoder = WordEncoder()
    packed = PackedAdapters(base.model, TARGETS, slots=slots, rank=8)
    clock = Clock()
    node_cache = NodeCache(directory / "node-cache", node_cache_bytes, store, sleep=lambda _: None)
    residency = Residency(
        packed, node_cache, base_digest=base.description.digest, ram_bytes=RAM_BYTES, metrics=metrics, clock=clock
    )
    background = background or ThreadPoolExecutor(1)
    gates = BankGates(metrics, 0.05, background)
    banks = Banks(database, residency, gates, encoder=encoder.reference, clock=clock)
    prefix_cache = PrefixCache(base.description.digest, prefix_cache_bytes, 8)
    settings = ServingSettings(slots=slots, max_rank=8, top_k=2, max_new_tokens=64)
    cache = TextCache(
        store,
        encoder.encode,
        max_bytes=TEXT_BYTES,
        forgotten=prefix_cache.forget,
        executor=ThreadPoolExecutor(1),
        clock=clock,
    )
    texts = Texts(database, cache, prefix_cache, max_bytes=TEXT_BYTES)
    service = Service(base, packed, banks, residency, encoder, prefix_cache, settings, metrics, texts)
    publisher = Publisher(database, store, base.description, encoder)
    return Stand(
        service,
        publisher,
        registry,
        base,
        packed,
        residency,
        banks,
        gates,
        node_cache,
        prefix_cache,
        cache,
        background,
        Engine(service.passer, metrics, settings),
        clock,
    )
