"""The RAM tier: adapters by digest within a budget in bytes. Not thread-safe: its owner holds a lock."""

from __future__ import annotations

from collections.abc import Collection

from workers.inference.tiers.loaded import LoadedMemory
from workers.inference.tiers.segmented_lru import SegmentedLru


class RamTier:
    """At most `budget` bytes of adapters; what is used seldom and long ago goes first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._adapters: dict[str, LoadedMemory] = {}
        self._order = SegmentedLru(budget)
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, digest: str) -> bool:
        """Does not count as use."""
        return digest in self._adapters

    @property
    def digests(self) -> tuple[str, ...]:
        """What should go first comes first."""
        return tuple(self._order)

    def get(self, digest: str) -> LoadedMemory | None:
        """The adapter, which thereby counts as used."""
        found = self._adapters.get(digest)
        if found is not None:
            self._order.use(digest)
        return found

    def put(self, digest: str, adapter: LoadedMemory, pinned: Collection[str]) -> tuple[str, ...]:
        """Keeps the adapter and returns whom it pushed out: never one of `pinned`.

        One that is too large for what they leave of the budget is not kept, and pushes out nobody.
        """
        self.drop(digest)
        room = self._budget - adapter.nbytes
        if sum(self._adapters[one].nbytes for one in pinned if one in self._adapters) > room:
            return ()
        idle = iter([one for one in self._order if one not in pinned])
        evicted = []
        while self.nbytes > room:
            evicted.append(next(idle))
            self.drop(evicted[-1])
        self._adapters[digest] = adapter
        self._order.use(digest, adapter.nbytes)
        self.nbytes += adapter.nbytes
        return tuple(evicted)

    def drop(self, digest: str) -> bool:
        """Whether there was such an adapter."""
        adapter = self._adapters.pop(digest, None)
        if adapter is None:
            return False
        self._order.remove(digest)
        self.nbytes -= adapter.nbytes
        return True
