"""Which of many things goes first when room is needed: by recency, with frequency. Pure, without the things themselves.

Segmented LRU (Karedla, Love and Wherry, 1994): what was used once waits at probation, and goes before anything that was
used again. So a question that touches many memories once does not push out those that are asked for all the time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

PROTECTED_SHARE = 0.8
"""Of the capacity, for what was used again; the usual share, as in Caffeine's main segment."""


class SegmentedLru:
    """Keys with their sizes, which are in the unit of `capacity`. It only keeps order: its owner removes what goes."""

    def __init__(self, capacity: int) -> None:
        self._most_protected = int(capacity * PROTECTED_SHARE)
        self._probation: OrderedDict[str, int] = OrderedDict()
        self._protected: OrderedDict[str, int] = OrderedDict()
        self._protected_size = 0

    def __iter__(self) -> Iterator[str]:
        """What should go first comes first."""
        yield from self._probation
        yield from self._protected

    def __contains__(self, key: str) -> bool:
        return key in self._probation or key in self._protected

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def use(self, key: str, size: int = 1) -> None:
        """The key came, or was used again; `size` is that of a new one."""
        if key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._probation:
            self._protect(key)
        else:
            self._probation[key] = size

    def remove(self, key: str) -> None:
        """Nothing is known of the key any more; it must be there."""
        if key in self._probation:
            del self._probation[key]
        else:
            self._protected_size -= self._protected.pop(key)

    def _protect(self, key: str) -> None:
        """Those that are then too many go back to probation, as its most recent: old habits get a second chance."""
        size = self._probation.pop(key)
        self._protected[key] = size
        self._protected_size += size
        while self._protected_size > self._most_protected:
            demoted, size = self._protected.popitem(last=False)
            self._protected_size -= size
            self._probation[demoted] = size
