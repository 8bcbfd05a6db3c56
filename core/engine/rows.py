"""A batch of rows, each of which continues its own prefix with its own adapter.

Every forward pass of LatentBank goes through here: self-study over a document's KV, teacher targets, training, gate
drafts and serving. What a row is fed comes after its prefix, and the adapter in its slot acts on all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from core.adapters.packed import BASE_SLOT, PackedAdapters
from core.engine.kv import PrefixKv, batch_cache
from core.engine.shared_start import can_share


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
        self._copied = 0 if shared is None or can_share(model) else len(shared)
        if shared is not None and self._copied:
            prefixes, shared = [PrefixKv.join([shared, prefix]) for prefix in prefixes], None
        self._model = model
        self._shared = shared
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
        ids, real = _right_aligned(tokens, self._model.device)
        width = ids.shape[1]
        # Given as positions, several columns come out contiguous, and the head is one product for all rows.
        kept = keep if keep == 1 else torch.arange(width - keep, width, device=ids.device)
        arguments = self._advance(real)
        with self._routed():
            logits: Tensor = self._model(input_ids=ids, logits_to_keep=kept, **arguments).logits
        return logits

    def feed_decoder(self, tokens: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> Tensor:
        """As `feed`, but what the decoder's last layer gives, `[rows, columns, hidden]`, without the head.

        `hidden[i]`, `[len(tokens[i]), hidden]`, is what row i's tokens have become before the first layer that runs.
        """
        ids, real = _right_aligned(tokens, self._model.device)
        arguments = self._advance(real)
        given = {"input_ids": ids} if hidden is None else {"inputs_embeds": _padded_left(hidden, ids.shape[1])}
        with self._routed():
            states: Tensor = self._model.get_decoder()(**given, **arguments).last_hidden_state
        return states

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
        """The KV of one row, prefix and what it was fed, as a copy without padding; without a shared start."""
        at = self._valid[row].nonzero()[self._copied :, 0]
        used = self._valid.shape[1]
        return PrefixKv(
            torch.stack([layer.keys[row, :, :used][:, at] for layer in self._cache.layers]),
            torch.stack([layer.values[row, :, :used][:, at] for layer in self._cache.layers]),
        )

    def _advance(self, real: Tensor) -> dict[str, Any]:
        """Where the new columns stand and what they may look at, as arguments of the model; `real` is not padding."""
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
        sharing = {} if self._shared is None else {"shared_start": self._shared}
        return {
            **sharing,
            "attention_mask": mask[:, None],
            "position_ids": positions,
            "past_key_values": self._cache,
            "use_cache": True,
        }

    def _routed(self) -> AbstractContextManager[None]:
        return nullcontext() if self._adapters is None else self._adapters.routed(self._slots, self._weights)


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
