"""What is wanted of a memory and what is then in RAM: its adapter, and the index that the gate's signals need."""

from __future__ import annotations

from dataclasses import dataclass

from core.adapters.peft_format import LoadedAdapter
from core.retrieval.index import MemoryIndex
from core.truth.records import BankEntry

_BYTES_OF_TERM = 16
"""Of a term's place in the list and in the set; the terms themselves are shared."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A served memory of a tenant, as the truth names it."""

    tenant_id: str
    entry: BankEntry

    @property
    def memory_id(self) -> str:
        return self.entry.memory_id

    @property
    def adapter_digest(self) -> str:
        return self.entry.adapter_digest


@dataclass(frozen=True, slots=True, eq=False)
class LoadedMemory(LoadedAdapter):
    """An adapter with its memory's index; `nbytes` is of both."""

    index: MemoryIndex

    @staticmethod
    def of(adapter: LoadedAdapter, index: MemoryIndex) -> LoadedMemory:
        return LoadedMemory(
            adapter.weights, adapter.scale, adapter.rank, adapter.targets, adapter.activation_tokens, index
        )

    @property
    def nbytes(self) -> int:
        index = self.index
        vectors = index.embeddings.nbytes + index.statements.nbytes
        texts = sum(len(entry) for entry in index.entries) + _BYTES_OF_TERM * len(index.terms)
        return sum(a.nbytes + b.nbytes for a, b in self.weights.values()) + vectors + texts
