"""A batch of rows, each of which continues its own prefix with its own adapter.

Every forward pass of LatentBank goes through here: self-study over a document's KV, teacher targets, training, gate
drafts and serving. What a row is fed comes after its prefix, and the adapter in its slot acts on all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from core.adapters.packed import BASE_SLOT, PackedAdapters
from core.engine.kv import PrefixKv, batch_cache


class Rows:
    """`prefixes[i]` and `slots[i]` belong to row i; `room` is how many tokens may still be fed.

    With `mixes` instead of `slots`, row i has the sum of the adapters in the slots that `mixes[i]` names, each times
    its weight.
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
    ) -> None:
        self._model = model
        self._adapters = adapters
        self._slots, self._weights = _routing(slots, model.device), None
        if mixes is not None:
            self._slots, self._weights = _mixed(mixes, model.device)
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
        width = max(len(row) for row in tokens)
        ids, real = _right_aligned(tokens, width, self._model.device)
        # A column of padding attends to itself, or its softmax would be over nothing and spread NaN.
        valid = torch.cat([self._valid, real], 1)
        total = valid.shape[1]
        column = torch.arange(total, device=ids.device)
        query = column[total - width :]
        mask = (valid[:, None, :] & (column[None, None, :] <= query[None, :, None])) | (
            column[None, None, :] == query[None, :, None]
        )
        positions = (self._lengths[:, None] + real.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(ids, mask[:, None], positions, keep)
        self._valid = valid
        self._lengths = self._lengths + real.sum(1)
        return logits

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drops all rows but `rows`, in that order."""
        index = torch.tensor(rows, device=self._valid.device)
        self._valid, self._lengths = self._valid[index], self._lengths[index]
        self._slots = None if self._slots is None else self._slots[index]
        self._weights = None if self._weights is None else self._weights[index]
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
        """The KV of one row, prefix and what it was fed, as a copy without padding."""
        at = self._valid[row].nonzero()[:, 0]
        used = self._valid.shape[1]
        return PrefixKv(
            torch.stack([layer.keys[row, :, :used][:, at] for layer in self._cache.layers]),
            torch.stack([layer.values[row, :, :used][:, at] for layer in self._cache.layers]),
        )

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        width = ids.shape[1]
        arguments = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": self._cache,
            "use_cache": True,
            # Given as positions, several columns come out contiguous, and the head is one product for all rows.
            "logits_to_keep": keep if keep == 1 else torch.arange(width - keep, width, device=ids.device),
        }
        with nullcontext() if self._adapters is None else self._adapters.routed(self._slots, self._weights):
            logits: Tensor = self._model(**arguments).logits
        return logits


def prefill(model: Any, tokens: Sequence[Sequence[int]], past: PrefixKv | None = None) -> list[PrefixKv]:
    """The base model's KV of `past` and then each of `tokens`; one `PrefixKv` a row, `past` included."""
    past = past or PrefixKv.empty(model)
    with torch.no_grad():
        rows = Rows(model, [past] * len(tokens), room=max(len(row) for row in tokens))
        rows.feed(tokens)
    return [rows.kv(row) for row in range(len(tokens))]


def _right_aligned(tokens: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    real = torch.zeros(len(tokens), width, dtype=torch.bool)
    for row, sequence in enumerate(tokens):
        start = width - len(sequence)
        ids[row, start:] = torch.tensor(list(sequence))
        real[row, start:] = True
    return ids.to(device), real.to(device)


def _routing(slots: Sequence[int] | None, device: torch.device) -> Tensor | None:
    if slots is None or all(slot == BASE_SLOT for slot in slots):
        return None
    return torch.tensor(list(slots), device=device)


def _mixed(mixes: Sequence[Mapping[int, float]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Slots and weights `[rows, k]`; a row with fewer than k is filled up with the base's slot, which adds nothing."""
    most = max([1, *(len(mix) for mix in mixes)])
    slots = [[*mix, *[BASE_SLOT] * (most - len(mix))] for mix in mixes]
    weights = [[*mix.values(), *[0.0] * (most - len(mix))] for mix in mixes]
    return torch.tensor(slots, device=device), torch.tensor(weights, device=device)
