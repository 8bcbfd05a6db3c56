"""Who is next: tenants in turn, each tenant's requests in order of arrival. Pure; its owner locks."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A tenant that asks a hundred questions at once delays another's one by one question, not by a hundred."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(items) for items in self._waiting.values())

    def __iter__(self) -> Iterator[Item]:
        """Tenant by tenant, not in the order of their turns."""
        return chain.from_iterable(self._waiting.values())

    def put(self, tenant_id: str, item: Item) -> None:
        self._waiting.setdefault(tenant_id, deque()).append(item)

    def take(self) -> Item | None:
        """The next item, or `None`; its tenant goes to the end of the turn."""
        if not self._waiting:
            return None
        tenant_id, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[tenant_id] = items
        return item

    def take_first_while(self, over: Callable[[Item], bool]) -> list[Item]:
        """Of every tenant the items at the front for which `over` holds; nobody's turn changes."""
        taken = []
        for tenant_id, items in list(self._waiting.items()):
            while items and over(items[0]):
                taken.append(items.popleft())
            if not items:
                del self._waiting[tenant_id]
        return taken
