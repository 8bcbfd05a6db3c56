"""Search over a bank that changes: the ranking of `BankIndex`, from compact records, at the cost of what changed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.retrieval.cells import Cells
from core.retrieval.compact import Compact, hashes
from core.retrieval.growing import Growing
from core.retrieval.index import LEXICAL_WEIGHT, Hit
from core.retrieval.lexical import terms
from core.retrieval.postings import Postings

_WIDTH = 64
"""Memories that are ranked in full precision, of those best with vectors as bytes."""
_BY_WORDS = 256
"""Memories with most of the question's words that are looked at wherever their vectors are."""
_FEW_DEAD = 1024


class LiveIndex:
    """Thread-safe. What is removed is found no more from then on."""

    def __init__(self) -> None:
        self._cells: Cells | None = None
        self._postings = Postings()
        self._ids: list[str] = []
        self._slots: dict[str, int] = {}
        self._alive = Growing(np.bool_)
        self._collections = Growing(np.int32)
        self._names: dict[str, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, memory_id: str) -> bool:
        return memory_id in self._slots

    @property
    def dimension(self) -> int | None:
        """Numbers of a vector; `None` while there are none."""
        return None if self._cells is None else self._cells.dimension

    @property
    def nbytes(self) -> int:
        """Of vectors and words, which are nearly all."""
        return self._postings.nbytes + (self._cells.nbytes if self._cells else 0)

    @property
    def thin(self) -> bool:
        """Whether only the first few vectors of each memory are looked at."""
        return self._cells is not None and self._cells.thin

    def change(self, served: Iterable[tuple[str, str, Compact]], gone: Collection[str] = ()) -> None:
        """Id, collection and what is known of each memory that is new or replaced; and who goes."""
        with self._lock:
            for memory_id in gone:
                self._remove(memory_id)
            for memory_id, collection, compact in served:
                self._remove(memory_id)
                if len(compact.vectors):
                    self._add(memory_id, collection, compact)
            self._settle()

    def search(
        self,
        query: str,
        embedding: Tensor,
        top_k: int,
        ids: Collection[str] | None = None,
        collection: str | None = None,
    ) -> list[Hit]:
        """The `top_k` best memories, of those in `ids` and of `collection` if given; ties go to the lower memory id."""
        asked = hashes(terms(query)).tolist()
        vector = embedding.numpy()
        with self._lock:
            allowed = self._allowed(ids, collection)
            many = int(np.count_nonzero(allowed))
            if not many or top_k < 1 or self._cells is None:
                return []
            words = self._postings.scores(asked)
            if many < len(self._slots):
                words *= allowed
            most = words.max()
            if most > 0:
                words *= LEXICAL_WEIGHT / most
            slots = self._proposed(vector, words, allowed, many, max(_WIDTH, 2 * top_k))
            scores = self._cells.cosines(vector, slots, len(self._ids)) + words[slots]
            found = sorted(zip((-scores).tolist(), (self._ids[slot] for slot in slots), strict=True))[:top_k]
        return [Hit(memory_id, rank, -score) for rank, (score, memory_id) in enumerate(found)]

    def _allowed(self, ids: Collection[str] | None, collection: str | None) -> NDArray[np.bool_]:
        allowed: NDArray[np.bool_] = self._alive.view
        if collection is not None:
            allowed = allowed & (self._collections.view == self._names.get(collection, -1))
        if ids is not None:
            chosen = np.zeros(len(allowed), np.bool_)
            chosen[[self._slots[one] for one in ids if one in self._slots]] = True
            allowed = allowed & chosen
        return allowed

    def _proposed(
        self,
        vector: NDArray[np.float32],
        words: NDArray[np.float32],
        allowed: NDArray[np.bool_],
        many: int,
        width: int,
    ) -> NDArray[np.int32]:
        """All who are allowed where they are few, else the best by vectors as bytes."""
        if many <= width:
            return np.flatnonzero(allowed).astype(np.int32)
        assert self._cells is not None
        return self._cells.best(vector, allowed, words, _highest(words, _BY_WORDS), width)

    def _add(self, memory_id: str, collection: str, compact: Compact) -> None:
        if self._cells is None:
            self._cells = Cells(compact.vectors.shape[1])
        slot = len(self._ids)
        self._slots[memory_id] = slot
        self._ids.append(memory_id)
        self._alive.append(np.array([True]))
        self._collections.append(np.array([self._names.setdefault(collection, len(self._names))], np.int32))
        self._cells.add(slot, compact.vectors)
        self._postings.add(compact.terms, compact.counts)

    def _remove(self, memory_id: str) -> None:
        slot = self._slots.pop(memory_id, None)
        if slot is not None:
            self._alive.view[slot] = False
            self._ids[slot] = ""
            self._postings.remove(slot)
            if self._cells is not None:
                self._cells.wipe(slot)

    def _settle(self) -> None:
        dead = len(self._ids) - len(self._slots)
        if self._cells is not None and (dead > max(_FEW_DEAD, len(self._slots) // 4) or not self._slots):
            self._sweep()
        if self._cells is not None:
            self._cells.settle(self._alive.view)
        self._postings.settle()

    def _sweep(self) -> None:
        """Numbers the slots anew without the dead."""
        assert self._cells is not None
        alive = self._alive.view
        self._cells.keep(alive)
        self._postings.keep(alive)
        self._ids = [one for one in self._ids if one]
        self._slots = {one: slot for slot, one in enumerate(self._ids)}
        self._collections = Growing.of(self._collections.view[alive])
        self._alive = Growing.of(np.ones(len(self._ids), np.bool_))


def _highest(words: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Slots with the most of the question's words; more than `width` of many where that is quicker to tell."""
    most = float(words.max())
    if most <= 0:
        return np.zeros(0, np.int64)
    for share in (0.7, 0.5, 0.3, 0.0):
        found = np.flatnonzero(words > share * most)
        if len(found) >= width:
            break
    if len(found) <= width:
        return found
    return found[np.argpartition(-words[found], width - 1)[:width]]
