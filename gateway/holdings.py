"""Which workers hold which adapters: pure, and small enough for 10^3 workers with 10^3 adapters each.

An adapter's key is the first eight bytes of its digest. Keys only say where to ask; a worker names what it serves by
the whole digest, so two adapters with one key would cost a load and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.residency import ResidencyReport

Keys = npt.NDArray[np.uint64]
Worth = npt.NDArray[np.float32]

SLOT, RAM, NODE_CACHE = 1.0, 0.9, 0.7
"""What a copy in a tier is worth: about the share of a load from the object store that it saves."""

_PREFIX = len("sha256:")


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """One worker's adapters: distinct keys, and what the best copy of each is worth; both of shape (n,)."""

    keys: Keys
    worth: Worth


def keys_of(digests: Iterable[str]) -> Keys:
    """Keys, shape (n,), of digests `sha256:<64 hex digits>`. Raises `ValueError` for what is none."""
    hexadecimal = [digest[_PREFIX : _PREFIX + 16] for digest in digests]
    if any(len(one) != 16 for one in hexadecimal):
        raise ValueError("A digest is 'sha256:' and 64 hex digits.")
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), dtype=">u8").astype(np.uint64)


def holding(slot: Keys, ram: Keys, node_cache: Keys) -> Holding:
    """A key in several tiers counts in the best of them."""
    keys, first = np.unique(np.concatenate((slot, ram, node_cache)), return_index=True)
    worth = np.repeat(np.array((SLOT, RAM, NODE_CACHE), np.float32), (len(slot), len(ram), len(node_cache)))
    return Holding(keys, worth[first])


def holding_of(report: ResidencyReport) -> Holding:
    """Raises `ValueError` where the report names something that is no digest."""
    return holding(keys_of(report.slot), keys_of(report.ram), keys_of(report.node_cache))


class Holdings:
    """Who holds what, as of one moment; immutable."""

    def __init__(self, by_worker: Mapping[str, Holding]) -> None:
        self._ids = tuple(by_worker)
        held = tuple(by_worker.values())
        keys = np.concatenate([one.keys for one in held]) if held else np.empty(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._worth = np.concatenate([one.worth for one in held])[order] if held else np.empty(0, np.float32)
        self._workers = np.repeat(np.arange(len(held)), [len(one.keys) for one in held])[order]

    def coverage(self, bank: Keys) -> dict[str, float]:
        """By worker id, how much of `bank` is held there, above 0 and at most 1; who holds none is left out."""
        if not len(bank) or not len(self._keys):
            return {}
        begin = np.searchsorted(self._keys, bank, "left")
        copies = np.searchsorted(self._keys, bank, "right") - begin
        # The positions of all copies: begin, begin + 1, … for each key of the bank.
        ends = np.cumsum(copies)
        at = np.arange(ends[-1]) + np.repeat(begin - (ends - copies), copies)
        worth = np.bincount(self._workers[at], weights=self._worth[at], minlength=len(self._ids)) / len(bank)
        return {self._ids[worker]: float(worth[worker]) for worker in np.flatnonzero(worth)}
