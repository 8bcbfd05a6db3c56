"""A batch of rows, each of which continues its own prefix with its own adapter.

Every forward pass of LatentBank goes through here: self-study over a document's KV, teacher targets, training, gate
drafts and serving. What a row is fed comes after its prefix, and the adapter in its slot acts on all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.packed import BASE_SLOT, Adapted, PackedAdapters
from core.engine.blocks import Block
from core.engine.forward import alone, can_run_together, states_alone
from core.engine.kv import PrefixKv, batch_cache


class Rows:
    """`prefixes[i]` and `slots[i]` belong to row i; `room` is how many tokens may still be fed.

    With `mixes` instead of `slots`, row i has the sum of the adapters in the slots that `mixes[i]` names, each times
    its weight. With `shared`, every row begins with that KV, held once, and `prefixes` come after it.
    """

    def __init__(
        self,
        model: Any,
        prefixes: Sequence[PrefixKv],
        *,
        room: int,
        adapters: PackedAdapters | None = None,
        slots: Sequence[int] | None = None,
        mixes: Sequence[Mapping[int, float]] | None = None,
        shared: PrefixKv | None = None,
    ) -> None:
        if shared is not None and len(shared) == 0:
            shared = None
        # A model that can't share has the start in each row, and `kv` leaves it out again.
        self._copied = 0 if shared is None or can_run_together(model) else len(shared)
        if shared is not None and self._copied:
            prefixes, shared = [PrefixKv.join([shared, prefix]) for prefix in prefixes], None
        self._model = model
        self._shared = shared
        self._adapters = adapters
        if mixes is None:
            mixes = [_mix(slot) for slot in slots or [BASE_SLOT] * len(prefixes)]
        self._mixes = list(mixes)
        self._adapted = self._adapt()
        self._cache = batch_cache(prefixes, room)
        longest = max(len(prefix) for prefix in prefixes)
        columns = torch.arange(longest, device=model.device)
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=model.device)
        self._valid = columns[None, :] >= (longest - lengths)[:, None]
        self._lengths = lengths

    def feed(self, tokens: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Feeds each row its tokens; logits `[rows, keep, vocabulary]` of the last `keep` columns.

        Rows of unequal length are right-aligned: row i's logits are the last `len(tokens[i])` of the kept columns.
        With gradients enabled and adapters that train, feed once only: nothing is then written to the cache.
        """
        return alone(self._model, self.enter(tokens), keep)

    def feed_decoder(self, tokens: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> Tensor:
        """As `feed`, but what the decoder's last layer gives, `[rows, columns, hidden]`, without the head.

        `hidden[i]`, `[len(tokens[i]), hidden]`, is what row i's tokens have become before the first layer that runs.
        """
        block = self.enter(tokens)
        before = None if hidden is None else _padded_left(hidden, block.ids.shape[1])
        return states_alone(self._model, block, before)

    def enter(self, tokens: Sequence[Sequence[int]]) -> Block:
        """Each row with its next tokens, to be run in one pass, alone or with other blocks, exactly once."""
        ids, real = _right_aligned(tokens, self._model.device)
        mask, positions = self._advance(real)
        return Block(ids, positions, mask, self._cache.layers, self._shared, self._adapted)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drops all rows but `rows`, in that order."""
        index = torch.tensor(rows, device=self._valid.device)
        self._valid, self._lengths = self._valid[index], self._lengths[index]
        self._mixes = [self._mixes[row] for row in rows]
        self._adapted = self._adapt()
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]

    def rewind(self, tokens: int) -> None:
        """Forgets the last `tokens` columns fed; only where every row was fed as many."""
        if tokens == 0:
            return
        self._valid = self._valid[:, :-tokens]
        self._lengths = self._lengths - tokens
        for layer in self._cache.layers:
            layer.used -= tokens

    def kv(self, row: int) -> PrefixKv:
        """The KV of one row, prefix and what it was fed, as a copy without padding; without a shared start."""
        at = self._valid[row].nonzero()[self._copied :, 0]
        used = self._valid.shape[1]
        return PrefixKv(
            torch.stack([layer.keys[row, :, :used][:, at] for layer in self._cache.layers]),
            torch.stack([layer.values[row, :, :used][:, at] for layer in self._cache.layers]),
        )

    def _adapt(self) -> Adapted | None:
        """The adapters of the rows up to the last that has any; `None` where all are the base's."""
        if self._adapters is None or not any(self._mixes):
            return None
        most = max(row for row, mix in enumerate(self._mixes) if mix) + 1
        return Adapted(self._adapters, *mixed(self._mixes[:most], self._model.device))

    def _advance(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """What the new columns may look at and where they stand; `real` is not padding."""
        valid = torch.cat([self._valid, real], 1)
        total, width = valid.shape[1], real.shape[1]
        column = torch.arange(total, device=real.device)
        query = column[total - width :]
        # A column of padding attends to itself, or its softmax would be over nothing and spread NaN.
        mask = (valid[:, None, :] & (column[None, None, :] <= query[None, :, None])) | (
            column[None, None, :] == query[None, :, None]
        )
        before = 0 if self._shared is None else len(self._shared)
        positions = (before + self._lengths[:, None] + real.cumsum(1) - 1).clamp(min=0)
        self._valid = valid
        self._lengths = self._lengths + real.sum(1)
        return mask[:, None], positions


@torch.no_grad()
def prefill(model: Any, tokens: Sequence[Sequence[int]], shared: PrefixKv | None = None) -> list[PrefixKv]:
    """The base model's KV of each of `tokens`, which come after `shared`, if given; of `tokens` alone."""
    rows = Rows(model, [PrefixKv.empty(model)] * len(tokens), room=max(len(row) for row in tokens), shared=shared)
    rows.feed_decoder(tokens)
    return [rows.kv(row) for row in range(len(tokens))]


def _right_aligned(tokens: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids `[rows, columns]`, and which of them are no padding."""
    width = max(len(row) for row in tokens)
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    real = torch.zeros(len(tokens), width, dtype=torch.bool)
    for row, sequence in enumerate(tokens):
        start = width - len(sequence)
        ids[row, start:] = torch.tensor(list(sequence))
        real[row, start:] = True
    return ids.to(device), real.to(device)


def _padded_left(parts: Sequence[Tensor], width: int) -> Tensor:
    """`[n_i, hidden]` tensors as one `[rows, width, hidden]`, right-aligned."""
    return torch.stack([nn.functional.pad(part, (0, 0, width - len(part), 0)) for part in parts])


def _mix(slot: int) -> dict[int, float]:
    return {} if slot == BASE_SLOT else {slot: 1.0}


def mixed(mixes: Sequence[Mapping[int, float]], device: torch.device, least: int = 1) -> tuple[Tensor, Tensor]:
    """Slots and weights `[rows, k]`, k at least `least`; a row with fewer is filled up with the base's slot."""
    most = max([least, *(len(mix) for mix in mixes)])
    slots = [[*mix, *[BASE_SLOT] * (most - len(mix))] for mix in mixes]
    weights = [[*mix.values(), *[0.0] * (most - len(mix))] for mix in mixes]
    return torch.tensor(slots, device=device), torch.tensor(weights, device=device)
