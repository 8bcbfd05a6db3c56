"""The vectors of many memories that come and go: all of them looked at while they are few, cells of near ones then.

Beyond `EXACT` the vectors are sorted into cells around centroids (an inverted file, as Jégou, Douze and Schmid 2011
without the product quantiser), and a question looks into the nearest cells and at what is not sorted in yet.
"""

from __future__ import annotations

from typing import Any

import numkong
import numpy as np
from numpy.typing import NDArray

from core.retrieval.compact import STEPS
from core.retrieval.growing import Growing

EXACT = 8192
"""So many vectors are looked at one by one: about a fifth of a millisecond at 384 coordinates."""
THIN = 4
"""Vectors of each memory once they are more than `EXACT`."""
_ROWS_OF_CELL = 256
_PROBED_ROWS = 4096
_TRAINING_ROWS = 64
_ROUNDS = 5
_CHUNK = 8192


class Cells:
    """Rows int8 `[rows, dimension]`, each of a slot, a small number of its owner's. Not thread-safe."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._rows = Growing(np.int8, dimension)
        self._owners = Growing(np.int32)
        self._centroids: NDArray[np.int8] | None = None
        self._offsets = np.zeros(1, np.int64)
        self._where = np.zeros((0, THIN), np.int32)
        self.thin = False

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._owners.nbytes + self._offsets.nbytes + self._where.nbytes

    @property
    def sorted_rows(self) -> int:
        return int(self._offsets[-1])

    def add(self, slot: int, vectors: NDArray[np.int8]) -> None:
        """The vectors of a slot, those that stand for most first."""
        kept = vectors[:THIN] if self.thin else vectors
        self._rows.append(kept)
        self._owners.append(np.full(len(kept), slot, np.int32))

    def wipe(self, slot: int) -> None:
        """Nothing is left of the slot's vectors; `keep` gives their room back."""
        self._rows.view[self._owners.view == slot] = 0

    def settle(self, alive: NDArray[np.bool_]) -> None:
        """Makes of many vectors the first few of each memory, and sorts into cells what is still too many."""
        if not self.thin and len(self._rows) > EXACT:
            self.thin = True
            self._take(_place_in_run(self._owners.view) < THIN)
        if len(self._rows) - self.sorted_rows > EXACT:
            self._sort(len(alive))

    def keep(self, alive: NDArray[np.bool_]) -> None:
        """Forgets all slots but those that are `alive`, which move together in their order."""
        self._take(alive[self._owners.view])
        new = (np.cumsum(alive) - 1).astype(np.int32)
        self._owners = Growing.of(new[self._owners.view])
        if self._centroids is not None:
            self._sort(int(alive.sum()))

    def best(
        self,
        query: NDArray[np.float32],
        allowed: NDArray[np.bool_],
        bonus: NDArray[np.float32],
        also: NDArray[np.int64],
        most: int,
    ) -> NDArray[np.int32]:
        """At most `most` slots among `allowed` with the highest cosine with `query` `[dimension]` and `bonus` in sum.

        Beside those of the nearest cells `also` are looked at. The question is rounded to bytes for it.
        """
        asked = _bytes(query)[None]
        rows, near = self._near(asked, float(allowed.mean()))
        if rows is not None:
            more = self._where[also[also < len(self._where)]].ravel()
            more = more[more >= 0]
            rows, near = np.concatenate([rows, more]), np.concatenate([near, _products(self._rows.view[more], asked)])
        if not len(near):
            return np.zeros(0, np.int32)
        owners = self._owners.view[rows] if rows is not None else self._owners.view
        near = np.where(allowed[owners], near / STEPS**2 + bonus[owners], -np.inf)
        # A slot has THIN rows or fewer once there are cells, so this many rows are of enough slots.
        wide = min(len(near), most * THIN) if self.thin else len(near)
        best = np.argpartition(-near, wide - 1)[:wide]
        best = best[np.isfinite(near[best])]
        best = best[np.argsort(-near[best], kind="stable")]
        slots, first = np.unique(owners[best], return_index=True)
        return slots[np.argsort(first)][:most]

    def cosines(self, query: NDArray[np.float32], slots: NDArray[np.int32], total: int) -> NDArray[np.float32]:
        """The highest cosine of each of `slots` with `query`, in full precision; `total` is one more than any slot."""
        place = np.full(total, -1, np.int32)
        place[slots] = np.arange(len(slots), dtype=np.int32)
        rest = self.sorted_rows + np.flatnonzero(place[self._owners.view[self.sorted_rows :]] >= 0)
        known = slots[slots < len(self._where)]
        rows = np.concatenate([self._where[known].ravel(), rest])
        rows = rows[rows >= 0]
        best = np.full(len(slots), -1.0, np.float32)
        values = (self._rows.view[rows].astype(np.float32) @ query) / np.float32(STEPS)
        np.maximum.at(best, place[self._owners.view[rows]], values)
        return best

    def _near(self, asked: NDArray[np.int8], share: float) -> tuple[NDArray[np.int64] | None, NDArray[np.float64]]:
        """Rows (None: all) and their products with the question; more cells where few slots are allowed."""
        if self._centroids is None:
            return None, _products(self._rows.view, asked)
        probed = int(_PROBED_ROWS / _ROWS_OF_CELL / max(share, 1e-6))
        count = len(self._centroids)
        if probed >= count // 2:
            return None, _products(self._rows.view, asked)
        chosen = np.argpartition(-_products(self._centroids, asked), probed)[:probed]
        parts = [slice(self._offsets[cell], self._offsets[cell + 1]) for cell in chosen]
        parts.append(slice(self.sorted_rows, len(self._rows)))
        view = self._rows.view
        near = np.concatenate([_products(view[part], asked) for part in parts if part.start < part.stop])
        rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        return rows, near

    def _take(self, kept: NDArray[np.bool_]) -> None:
        self._rows, self._owners = Growing.of(self._rows.view[kept]), Growing.of(self._owners.view[kept])
        self._offsets, self._where = np.zeros(1, np.int64), np.zeros((0, THIN), np.int32)

    def _sort(self, slots: int) -> None:
        view = self._rows.view
        cells = max(1, len(view) // _ROWS_OF_CELL)
        if self._centroids is None or len(self._centroids) * 4 < cells:
            self._centroids = _train(view, cells)
            self._offsets = np.zeros(1, np.int64)
        # Those that are in a cell stay in it: their centroids have not moved.
        known = np.repeat(np.arange(len(self._offsets) - 1), np.diff(self._offsets))
        cell = np.concatenate([known, _assign(view[self.sorted_rows :], self._centroids)])
        order = np.argsort(cell, kind="stable")
        self._offsets = np.searchsorted(cell[order], np.arange(len(self._centroids) + 1)).astype(np.int64)
        owners = self._owners.view[order]
        self._rows, self._owners = Growing.of(view[order]), Growing.of(owners)
        self._where = np.full((slots, THIN), -1, np.int32)
        by_owner = np.argsort(owners, kind="stable")
        self._where[owners[by_owner], _place_in_run(owners[by_owner])] = by_owner


def _products(rows: NDArray[np.int8], asked: NDArray[np.int8]) -> NDArray[np.float64]:
    if not len(rows):
        return np.zeros(0)
    products: NDArray[np.float64] = np.asarray(numkong.cdist(rows, asked, metric="dot"))
    return products.ravel()


def _bytes(query: NDArray[np.float32]) -> NDArray[np.int8]:
    rounded: NDArray[np.int8] = np.clip(np.rint(query * STEPS), -STEPS, STEPS).astype(np.int8)
    return rounded


def _place_in_run(owners: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each row how many of its slot come before it; the rows of a slot are neighbours."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    return np.arange(len(owners)) - np.repeat(starts, np.diff(starts, append=len(owners)))


def _train(rows: NDArray[np.int8], cells: int) -> NDArray[np.int8]:
    """Spherical k-means on an even sample, the same for the same rows."""
    sample = rows[:: max(1, len(rows) // (cells * _TRAINING_ROWS))].astype(np.float32)
    centroids = sample[np.linspace(0, len(sample) - 1, cells).astype(np.int64)]
    for _ in range(_ROUNDS):
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-6)
        nearest = np.concatenate([(part @ centroids.T).argmax(axis=1) for part in _chunks(sample)])
        order = np.argsort(nearest, kind="stable")
        filled, starts = np.unique(nearest[order], return_index=True)
        centroids[filled] = np.add.reduceat(sample[order], starts)
    return _bytes(centroids / np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-6))


def _assign(rows: NDArray[np.int8], centroids: NDArray[np.int8]) -> NDArray[np.int64]:
    columns = centroids.astype(np.float32).T.copy()
    parts = [(part.astype(np.float32) @ columns).argmax(axis=1) for part in _chunks(rows)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _chunks(rows: NDArray[Any]) -> list[NDArray[Any]]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
