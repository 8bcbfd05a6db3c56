"""Rows that write, one token a pass, each with its own adapters. They join and leave between any two passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from core.adapters.packed import Adapted, PackedAdapters
from core.engine.blocks import Block
from core.engine.kv import PrefixKv
from core.engine.rows import mixed

SPARE_COLUMNS = 256
"""Tokens that may be written before all KV has to be moved to the front again."""
FIRST_ROWS = 4


class RunningRow:
    """One row while it is among the running ones. `mix` are the slots of its adapters with their weights."""

    def __init__(self, length: int, mix: Mapping[int, float], index: int) -> None:
        self.length = length
        self.mix = dict(mix)
        self.index = index


class RunningRows:
    """All rows end in the same column, so that a pass writes one column and reads a rectangle.

    KV is `[layers, rows, kv_heads, columns, head_dim]`; row i has `lengths[i]` tokens before column `end`. A row that
    leaves is replaced by the last one.
    """

    def __init__(self, model: Any, adapters: PackedAdapters | None = None) -> None:
        self._model = model
        self._adapters = adapters
        self._rows: list[RunningRow] = []
        self._keys = self._values = PrefixKv.empty(model).keys[:, None, :, :0].expand(-1, 0, -1, -1, -1)
        self._end = 0
        self._adapted: Adapted | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, parts: Sequence[PrefixKv], mix: Mapping[int, float]) -> RunningRow:
        """A row that continues `parts`, one after the other; they are copied."""
        length = sum(len(part) for part in parts)
        if len(self._rows) == self._keys.shape[1] or length > self._end:
            self._move(len(self._rows) + 1, max(self._longest(), length))
        row = RunningRow(length, mix, len(self._rows))
        at = self._end - length
        for part in parts:
            self._keys[:, row.index, :, at : at + len(part)] = part.keys
            self._values[:, row.index, :, at : at + len(part)] = part.values
            at += len(part)
        self._rows.append(row)
        self._adapt(row)
        return row

    def leave(self, row: RunningRow) -> None:
        """Nothing of the row stays, neither KV nor adapters. After `clear` it has left already."""
        if row not in self._rows:
            return
        self._wipe(row)
        last = self._rows.pop()
        if last is not row:
            used = slice(self._end - last.length, self._end)
            self._keys[:, row.index, :, used] = self._keys[:, last.index, :, used]
            self._values[:, row.index, :, used] = self._values[:, last.index, :, used]
            self._wipe(last)
            last.index = row.index
            self._rows[row.index] = last
        if not self._rows:
            self._adapted = None
        elif self._adapted is not None and len(row.mix) == self._adapted.slots.shape[1] > 1:
            # It may have been the only one of so many adapters, for which all others would go on to pay.
            self._adapted = self._adapted_anew()
        elif self._adapted is not None:
            self._adapted.drop(row.index)

    def clear(self) -> None:
        """Forgets all rows, after a pass that broke off."""
        self._rows.clear()
        self._keys.zero_()
        self._values.zero_()
        self._adapted = None

    def enter(self, tokens: Mapping[RunningRow, int]) -> Block:
        """Every row with its next token, to be run in one pass exactly once."""
        if self._end == self._keys.shape[3]:
            self._move(len(self._rows), self._longest())
        begin, self._end = self._end - self._longest(), self._end + 1
        lengths = torch.tensor([row.length for row in self._rows], device=self._model.device)
        for row in self._rows:
            row.length += 1
        column = torch.arange(begin, self._end, device=self._model.device)
        mask = column[None, :] >= self._end - 1 - lengths[:, None]
        count = len(self._rows)
        layers = [
            _Layer(keys[:count], values[:count], begin, self._end)
            for keys, values in zip(self._keys, self._values, strict=True)
        ]
        ids = torch.tensor([[tokens[row]] for row in self._rows], device=self._model.device)
        return Block(ids, lengths[:, None], mask[:, None, None], layers, None, self._adapted)

    def _longest(self) -> int:
        return max((row.length for row in self._rows), default=0)

    def _move(self, rows: int, end: int) -> None:
        """To new storage with room for so many rows, where they end in column `end`."""
        capacity = self._keys.shape[1]
        if rows > capacity:
            capacity = max(FIRST_ROWS, 2 * capacity)
        longest, count = self._longest(), len(self._rows)
        self._keys, self._values = (
            _moved(old, count, capacity, slice(self._end - longest, self._end), end)
            for old in (self._keys, self._values)
        )
        self._end = end

    def _adapt(self, new: RunningRow) -> None:
        """The adapters of all rows, the last of which is new."""
        several = max(1, len(new.mix))
        if self._adapted is not None and self._adapted.slots.shape[1] >= several:
            slots, weights = mixed([new.mix], self._model.device, self._adapted.slots.shape[1])
            self._adapted.add(slots[0], weights[0])
        else:
            self._adapted = self._adapted_anew()

    def _adapted_anew(self) -> Adapted | None:
        if self._adapters is None:
            return None
        return Adapted(self._adapters, *mixed([row.mix for row in self._rows], self._model.device))

    def _wipe(self, row: RunningRow) -> None:
        for part in (self._keys, self._values):
            part[:, row.index, :, self._end - row.length : self._end].zero_()


def _moved(old: Tensor, count: int, capacity: int, used: slice, end: int) -> Tensor:
    layers, _, heads, _, width = old.shape
    # Zeros, since what is masked is still multiplied, by 0.
    new = old.new_zeros(layers, capacity, heads, end + SPARE_COLUMNS, width)
    new[:, :count, :, end - (used.stop - used.start) : end] = old[:, :count, :, used]
    return new


class _Layer(CacheLayerMixin):
    """One layer of the running rows in one pass: `[rows, kv_heads, columns, head_dim]`, read from `begin` to `end`."""

    is_initialized = True

    def __init__(self, keys: Tensor, values: Tensor, begin: int, end: int) -> None:
        super().__init__()
        self.keys, self.values, self._begin, self._end = keys, values, begin, end

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self._end - 1] = key_states[:, :, 0]
        self.values[:, :, self._end - 1] = value_states[:, :, 0]
        return self.keys[:, :, self._begin : self._end], self.values[:, :, self._begin : self._end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._end - self._begin, 0

    def get_seq_length(self) -> int:
        return self._end - 1

    def get_max_length(self) -> int:
        return -1
