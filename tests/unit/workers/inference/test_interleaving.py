"""Whatever else happens, a greedy answer is the one that its memory gives alone: a stateful test of the whole worker.

Memories come, go and push each other out of two slots, requests of two tenants run beside each other, are cancelled and
left; the oracle is a base of its own with one adapter in one slot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.adapters.packed import BASE_SLOT, PackedAdapters
from core.adapters.validation import layers_of_base
from core.base_model.description import BaseDescription
from core.base_model.loading import LoadedBase, load_base
from core.engine.decoding import write
from core.engine.rows import prefill
from core.truth.database import Database
from core.truth.records import BankEntry
from tests.fixtures.published import TARGETS, random_weights
from tests.unit.workers.inference.conftest import Flight, Stand, make_stand
from workers.inference.question import Delta, Started

QUESTIONS = ("Velmora?", "Who is the mayor of Velmora by the river Asten?", "x")
LENGTHS = (1, 3, 9, 20)
SEEDS = st.integers(1, 4)


@dataclass(slots=True)
class Asked:
    """A request under way and what it should answer."""

    flight: Flight
    expected: str
    digest: str | None
    text: str = ""
    done: bool = False


class Oracle:
    """Greedy answers of one adapter, or none, alone."""

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        self._packed = PackedAdapters(base.model, TARGETS, slots=2, rank=8)
        self._layers: Mapping[str, tuple[int, int]] = layers_of_base(base.description.path, TARGETS)
        self._known: dict[tuple[int | None, str], list[int]] = {}

    def answer(self, seed: int | None, question: str, limit: int) -> str:
        key = (seed, question)
        if key not in self._known:
            if seed is not None:
                self._packed.write(1, random_weights(self._layers, seed), 2.0)
            prompt = self._base.chat.prompt(({"role": "user", "content": question},))
            (row,) = write(
                self._base.model,
                prefill(self._base.model, [prompt.prefix]),
                [prompt.activation],
                limit=max(LENGTHS),
                end_tokens=self._base.end_tokens,
                adapters=self._packed,
                slots=[BASE_SLOT if seed is None else 1],
            )
            self._known[key] = row.tokens
        return self._base.chat.decode(self._known[key][:limit])


def machine(base: LoadedBase, oracle: Oracle) -> type[RuleBasedStateMachine]:
    class Interleaving(RuleBasedStateMachine):
        """Two tenants, their memories by seed, and the requests under way."""

        @initialize()
        def begin(self) -> None:
            self.directory = tempfile.TemporaryDirectory()
            self.database = Database(f"sqlite:///{Path(self.directory.name) / 'truth.db'}")
            self.database.migrate()
            self.stand: Stand = make_stand(base, self.database, Path(self.directory.name))
            self.tenants = [self.stand.publisher.tenant(name) for name in ("one", "two")]
            self.memories: dict[tuple[str, int], BankEntry] = {}
            self.asked: list[Asked] = []

        @rule(tenant=st.integers(0, 1), seed=SEEDS)
        def publish(self, tenant: int, seed: int) -> None:
            key = (self.tenants[tenant], seed)
            if key not in self.memories:
                self.memories[key] = self.stand.publisher.publish(key[0], f"Velmora {seed}", "It is a town.", seed=seed)

        @precondition(lambda self: self.memories)
        @rule(data=st.data())
        def forget(self, data: st.DataObject) -> None:
            key = data.draw(st.sampled_from(sorted(self.memories)))
            entry = self.memories.pop(key)
            self.stand.publisher.delete(entry, key[0])
            self.stand.banks.refresh_known()
            if not any(one.digest == entry.adapter_digest and not one.done for one in self.asked):
                assert self.stand.residency.slot_of(entry.adapter_digest) is None

        @precondition(lambda self: self.memories)
        @rule(data=st.data(), question=st.sampled_from(QUESTIONS), limit=st.sampled_from(LENGTHS))
        def ask_a_memory(self, data: st.DataObject, question: str, limit: int) -> None:
            tenant, seed = data.draw(st.sampled_from(sorted(self.memories)))
            entry = self.memories[tenant, seed]
            self._ask(tenant, question, limit, seed, entry, model=entry.memory_id)

        @rule(tenant=st.integers(0, 1), question=st.sampled_from(QUESTIONS), limit=st.sampled_from(LENGTHS))
        def ask_the_base(self, tenant: int, question: str, limit: int) -> None:
            self._ask(self.tenants[tenant], question, limit, None, None, mode="off")

        @rule(turns=st.integers(1, 8))
        def turn(self, turns: int) -> None:
            for _ in range(turns):
                self.stand.engine.turn()
            self._read()

        @precondition(lambda self: any(not one.done for one in self.asked))
        @rule(data=st.data())
        def leave(self, data: st.DataObject) -> None:
            one = data.draw(st.sampled_from([one for one in self.asked if not one.done]))
            one.flight.ticket.cancel()
            self.asked.remove(one)

        @precondition(lambda self: self.memories)
        @rule(data=st.data())
        def pin_only(self, data: st.DataObject) -> None:
            entry = self.memories[data.draw(st.sampled_from(sorted(self.memories)))]
            for other in self.memories.values():
                self.stand.residency.unpin(other.adapter_digest)
            self.stand.residency.pin(entry.adapter_digest)

        @rule()
        def lose_the_prefix_cache(self) -> None:
            self.stand.prefix_cache.clear()

        @invariant()
        def what_is_said_so_far_is_right(self) -> None:
            for one in getattr(self, "asked", ()):
                assert one.expected.startswith(one.text)

        def teardown(self) -> None:
            if not hasattr(self, "stand"):
                return
            while any(not one.done for one in self.asked):
                self.stand.engine.turn()
                self._read()
            assert [one.text for one in self.asked] == [one.expected for one in self.asked]
            self.stand.engine.turn()
            assert self.stand.residency.in_use == 0
            assert len(self.stand.service.passer.running) == 0
            self.stand.packed.remove()
            self.database.dispose()
            self.directory.cleanup()

        def _ask(
            self, tenant: str, question: str, limit: int, seed: int | None, entry: BankEntry | None, **more: Any
        ) -> None:
            put = replace(self.stand.question(tenant, question, **more), max_tokens=limit)
            digest = entry.adapter_digest if entry else None
            self.asked.append(Asked(self.stand.flight(put), oracle.answer(seed, question, limit), digest))

        def _read(self) -> None:
            for one in self.asked:
                for event in one.flight.arrived():
                    if isinstance(event, Started):
                        served = event.decision.served
                        assert (served.digest if served else None) == one.digest
                    elif isinstance(event, Delta):
                        one.text += event.text
                one.done = one.flight.done

    return Interleaving


@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_of_each_memory_alone_under_any_interleaving(tiny_base: BaseDescription) -> None:
    base, other = (load_base(tiny_base) for _ in range(2))
    run_state_machine_as_test(
        machine(base, Oracle(other)),
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
            derandomize=True,
        ),
    )
