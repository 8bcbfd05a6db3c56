"""BM25 over the words of many memories that come and go: postings sorted by word, and a short unsorted tail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.retrieval.growing import Growing

K1, B = 1.5, 0.75
"""As in `bm25s`, whose variant (Lucene's) this computes."""
TAIL = 1 << 17
"""Postings that are looked through one by one; what exceeds them is sorted in."""


class Postings:
    """A document is a slot, a small number of its owner's. Not thread-safe."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.uint64)
        self._offsets = np.zeros(1, np.int64)
        self._slots = np.zeros(0, np.int32)
        self._counts = np.zeros(0, np.uint16)
        self._tail_terms = Growing(np.uint64)
        self._tail_slots = Growing(np.int32)
        self._tail_counts = Growing(np.uint16)
        self._lengths = Growing(np.int32)
        self._norms: NDArray[np.float32] | None = None
        self._documents = self._words = 0

    @property
    def nbytes(self) -> int:
        parts = (self._keys, self._offsets, self._slots, self._counts)
        tails = (self._tail_terms, self._tail_slots, self._tail_counts, self._lengths)
        return sum(part.nbytes for part in parts) + sum(tail.nbytes for tail in tails)

    def add(self, terms: NDArray[np.uint64], counts: NDArray[np.uint16]) -> None:
        """The words of the next slot, distinct, each with how often it occurs."""
        slot = len(self._lengths)
        length = int(counts.sum(dtype=np.int64))
        self._lengths.append(np.array([length], np.int32))
        self._tail_terms.append(terms)
        self._tail_slots.append(np.full(len(terms), slot, np.int32))
        self._tail_counts.append(counts)
        self._documents, self._words, self._norms = self._documents + 1, self._words + length, None

    def remove(self, slot: int) -> None:
        """Nothing is left of its words, not even which they were; `keep` gives the slot to another."""
        self._documents, self._words, self._norms = self._documents - 1, self._words - int(self._lengths[slot]), None
        self._lengths.view[slot] = 0
        gone = np.flatnonzero(self._slots == slot)
        if len(gone):
            self._slots, self._counts = np.delete(self._slots, gone), np.delete(self._counts, gone)
            ends = self._offsets - np.searchsorted(gone, self._offsets)
            used = np.diff(ends) > 0
            self._keys, self._offsets = self._keys[used], np.append(ends[:-1][used], ends[-1])
        self._keep_tail(self._tail_slots.view != slot)

    def settle(self) -> None:
        """Sorts the tail in where it has become long."""
        if len(self._tail_terms) > TAIL:
            self._sort(*self._all())

    def keep(self, alive: NDArray[np.bool_]) -> None:
        """Forgets all slots but those that are `alive`, which move together in their order."""
        terms, slots, counts = self._all()
        new = (np.cumsum(alive) - 1).astype(np.int32)
        self._lengths = Growing.of(self._lengths.view[alive])
        self._norms = None
        self._sort(terms, new[slots], counts)

    def scores(self, asked: Sequence[int]) -> NDArray[np.float32]:
        """BM25 of every slot for the words `asked`, 0 for a dead one; `asked` may repeat a word, which counts."""
        total = np.zeros(len(self._lengths), np.float32)
        if not self._words:
            return total
        norms = self._current_norms()
        for term in asked:
            slots, counts = self._postings(np.uint64(term))
            if len(slots):
                idf = np.float32(np.log1p((self._documents - len(slots) + 0.5) / (len(slots) + 0.5)))
                often = counts.astype(np.float32)
                total[slots] += idf * often / (often + norms[slots])
        return total

    def _postings(self, term: np.uint64) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        place = int(np.searchsorted(self._keys, term))
        found = np.flatnonzero(self._tail_terms.view == term)
        slots, counts = self._tail_slots.view[found], self._tail_counts.view[found]
        if place == len(self._keys) or self._keys[place] != term:
            return slots, counts
        part = slice(self._offsets[place], self._offsets[place + 1])
        if not len(found):
            return self._slots[part], self._counts[part]
        return np.concatenate([self._slots[part], slots]), np.concatenate([self._counts[part], counts])

    def _current_norms(self) -> NDArray[np.float32]:
        if self._norms is None:
            mean = self._words / self._documents
            self._norms = (K1 * (1 - B + B * self._lengths.view / mean)).astype(np.float32)
        return self._norms

    def _all(self) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.uint16]]:
        terms = np.repeat(self._keys, np.diff(self._offsets))
        return (
            np.concatenate([terms, self._tail_terms.view]),
            np.concatenate([self._slots, self._tail_slots.view]),
            np.concatenate([self._counts, self._tail_counts.view]),
        )

    def _sort(self, terms: NDArray[np.uint64], slots: NDArray[np.int32], counts: NDArray[np.uint16]) -> None:
        order = np.argsort(terms, kind="stable")
        self._keys, starts = np.unique(terms[order], return_index=True)
        self._offsets = np.append(starts, len(terms)).astype(np.int64)
        self._slots, self._counts = slots[order], counts[order]
        self._keep_tail(np.zeros(len(self._tail_slots), np.bool_))

    def _keep_tail(self, kept: NDArray[np.bool_]) -> None:
        if kept.all():
            return
        self._tail_terms = Growing.of(self._tail_terms.view[kept])
        self._tail_slots = Growing.of(self._tail_slots.view[kept])
        self._tail_counts = Growing.of(self._tail_counts.view[kept])
