"""From a question to its candidates: what retrieval proposes, with adapters in RAM, and what could not be had.

A memory whose adapter is missing, corrupt or late abstains and the answer says why; the others are judged without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from core.errors import AdapterPending, LatentBankError
from core.gate.features import RetrievalSignals
from core.retrieval.index import Hit, retrieval_signals
from workers.inference.banks.bank import Bank, Member, Refused
from workers.inference.loads import problem_of
from workers.inference.prompts import retrieval_query
from workers.inference.question import Absent, Scope
from workers.inference.tiers.loaded import LoadedMemory, Wanted
from workers.inference.tiers.residency import Residency

REFUSED_SHOWN = 8
"""An answer names no more of the memories that this worker can't read: where a store is down, that is a whole bank."""


class QueryEncoder(Protocol):
    """What is needed of `core.retrieval.encoder.Encoder`."""

    reference: str

    def encode(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A memory that retrieval proposes, its adapter and its index in RAM."""

    member: Member
    hit: Hit
    signals: RetrievalSignals
    adapter: LoadedMemory


@dataclass(frozen=True, slots=True, eq=False)
class Proposed:
    """The candidates in retrieval's order, and the memories that can't be judged now.

    `embedding` is the question's, `[d]`, where it was looked for.
    """

    candidates: tuple[Candidate, ...] = ()
    absent: tuple[Absent, ...] = ()
    embedding: Tensor | None = None


class Retrieval:
    """Proposes at most `top_k` memories, and waits `wait_seconds` at most for their adapters. Any thread."""

    def __init__(self, residency: Residency, encoder: QueryEncoder, *, top_k: int, wait_seconds: float) -> None:
        self._residency = residency
        self._encoder = encoder
        self._top_k = top_k
        self._wait_seconds = wait_seconds

    def propose(self, asked: str | Sequence[Mapping[str, str]], scope: Scope, bank: Bank) -> Proposed:
        """What may answer within `scope`.

        A memory asked for by its id is never absent: what is wrong with it is raised, `AdapterPending` where its load
        takes longer than the wait. The load goes on, for whoever asks next.
        """
        refused = () if scope.ids is not None else bank.refused_in(scope.collection)[:REFUSED_SHOWN]
        absent = [_refused(one) for one in refused]
        if not bank.members:
            return Proposed(absent=tuple(absent))
        query = retrieval_query(asked)
        embedding = self._encoder.encode([query])[0]
        top_k = min(scope.top_k or self._top_k, self._residency.room)
        hits = bank.index.search(query, embedding, top_k, scope.ids, scope.collection)
        # The index is the newest bank's; what came after this one is for who asks next.
        hits = [hit for hit in hits if hit.memory_id in bank.members]
        members = [bank.members[hit.memory_id] for hit in hits]
        loads = [self._residency.prefetch(Wanted(bank.tenant_id, member.entry)) for member in members]
        wait(loads, timeout=self._wait_seconds)
        found: list[Candidate] = []
        proposed: list[Absent] = []
        for hit, member, load in zip(hits, members, loads, strict=True):
            problem = problem_of(load, AdapterPending())
            if problem is None:
                loaded = load.result()
                signals = retrieval_signals(query, embedding, loaded.index, self._encoder.encode)
                found.append(Candidate(member, hit, signals, loaded))
            elif scope.ids is not None:
                raise problem
            else:
                proposed.append(_absent(hit, member, problem))
        return Proposed(tuple(found), (*proposed, *absent), embedding)


def _absent(hit: Hit, member: Member, problem: LatentBankError) -> Absent:
    return Absent(hit.memory_id, member.entry.title, problem.code, hit.rank, hit.score)


def _refused(one: Refused) -> Absent:
    return Absent(one.entry.memory_id, one.entry.title, one.failure.problem.code)
