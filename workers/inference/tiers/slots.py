"""Which adapter is in which slot: pure bookkeeping, without weights, locks or a clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from workers.inference.tiers.segmented_lru import SegmentedLru


@dataclass(slots=True)
class Held:
    """A digest in a slot; `references` requests use it, `doomed` means it goes as soon as none does."""

    slot: int
    references: int = 0
    doomed: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """What `SlotTable.take` decided: the slot of each digest; those of `missing` must be filled; `evicted` went."""

    slots: Mapping[str, int]
    missing: tuple[str, ...]
    evicted: tuple[str, ...]


class SlotTable:
    """Slots 1 to `slots - 1` (0 is the base). Of those not in use, what is taken seldom and long ago goes first."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots - 1, 0, -1))
        self._held: dict[str, Held] = {}
        self._order = SegmentedLru(slots - 1)

    @property
    def capacity(self) -> int:
        return len(self._free) + len(self._held)

    @property
    def digests(self) -> tuple[str, ...]:
        """What should go first comes first."""
        return tuple(self._order)

    @property
    def doomed(self) -> bool:
        """Whether a digest is to go as soon as nobody uses it."""
        return any(held.doomed for held in self._held.values())

    @property
    def in_use(self) -> int:
        return sum(held.references > 0 for held in self._held.values())

    def slot_of(self, digest: str) -> int | None:
        held = self._held.get(digest)
        return None if held is None else held.slot

    def references(self, digest: str) -> int:
        held = self._held.get(digest)
        return 0 if held is None else held.references

    def take(self, digests: Iterable[str], pinned: Collection[str] = ()) -> Placement | None:
        """Refers to each of `digests`, placing the missing ones; `None` if they don't all fit: nothing changed.

        None of `pinned` is evicted.
        """
        wanted = list(dict.fromkeys(digests))
        missing = [digest for digest in wanted if digest not in self._held]
        kept = {*pinned, *wanted}
        idle = [d for d in self._order if self._held[d].references == 0 and d not in kept]
        if len(missing) > len(self._free) + len(idle):
            return None
        evicted = idle[: max(0, len(missing) - len(self._free))]
        for digest in evicted:
            self._remove(digest)
        for digest in missing:
            self._held[digest] = Held(self._free.pop())
        for digest in wanted:
            self._held[digest].references += 1
            self._order.use(digest)
        return Placement({digest: self._held[digest].slot for digest in wanted}, tuple(missing), tuple(evicted))

    def keep(self, digest: str) -> None:
        """The digest is not to go any more; nothing happens where it is not here."""
        if digest in self._held:
            self._held[digest].doomed = False

    def give_back(self, digest: str) -> int | None:
        """One reference less; the slot to clear where that was the last one to a doomed digest."""
        held = self._held[digest]
        held.references -= 1
        return self._remove(digest) if held.doomed and held.references == 0 else None

    def drop(self, digest: str) -> int | None:
        """The digest is to go: the slot to clear, or `None` where it is not here or still in use (it goes later)."""
        held = self._held.get(digest)
        if held is None:
            return None
        if held.references > 0:
            held.doomed = True
            return None
        return self._remove(digest)

    def _remove(self, digest: str) -> int:
        slot = self._held.pop(digest).slot
        self._order.remove(digest)
        self._free.append(slot)
        return slot
