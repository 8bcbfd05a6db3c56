"""The ranks of the process group, as the trainer sees them: who leads, who does which part, how they agree.

Control messages go over gloo on every device, so that a rank that waits for work does not spin.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

CONTROL_TIMEOUT = timedelta(days=7)
"""A group that is warm waits for its next run as long as it takes; who owns the group ends it."""


class Ranks:
    """`rank` of `size`; with one rank every exchange is a plain return."""

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None, *, lockstep: bool = False) -> None:
        self.rank = rank
        self.size = size
        self._control = control
        self._lockstep = lockstep

    def in_lockstep(self) -> Ranks:
        """The same ranks, all of which generate everything: a sharded base needs each of them in every forward pass."""
        return Ranks(self.rank, self.size, self._control, lockstep=True)

    @staticmethod
    def of_group() -> Ranks:
        """The ranks of the initialised default process group; collective."""
        return Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def from_all(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def own(self, items: Sequence[T]) -> list[T]:
        """This rank's rows of a training step; unlike `share` also in lockstep, where forward passes pair up anyway."""
        return list(items[self.rank :: self.size])

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of what is to be generated: every `size`-th; all of it in lockstep."""
        return list(items) if self._lockstep else list(items[self.rank :: self.size])

    def collect(self, parts: Sequence[T]) -> list[T]:
        """Undoes `share`: all ranks' parts in the first order, on every rank."""
        if self._lockstep:
            return self.from_first(list(parts))
        shares = self.from_all(list(parts))
        whole: list[Any] = [None] * sum(len(share) for share in shares)
        for rank, share in enumerate(shares):
            whole[rank :: self.size] = share
        return whole
