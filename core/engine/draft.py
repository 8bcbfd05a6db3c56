"""Drafts: the first answer tokens under each candidate, and what the base says of them, in one batch over a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.adapters.packed import BASE_SLOT, PackedAdapters
from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passes, by_itself
from core.engine.rows import Rows
from core.gate.features import DraftSignals


@dataclass(frozen=True, slots=True, eq=False)
class Drafts:
    """What a batch of drafts left behind.

    For question i: `tokens[i]` (greedy under its adapter, cut at an end token), whether it `ended` there, and
    `signals[i]`. `rows` still holds all KV but the shared one, so that generation can go on. Row i is question i under
    its adapter, row n (only if asked for) the base writing its own answer to question 0. For each row, `first_logits`
    follow the activation tokens, `drafted` is what was fed after them, `next_logits` follow that.
    """

    tokens: list[list[int]]
    ended: list[bool]
    signals: list[DraftSignals]
    rows: Rows
    first_logits: Tensor
    next_logits: Tensor
    drafted: list[list[int]]


@torch.no_grad()
def drafting(
    model: Any,
    adapters: PackedAdapters,
    prefixes: Sequence[PrefixKv],
    activation: Sequence[int],
    slots: Sequence[int],
    *,
    length: int,
    end_tokens: frozenset[int],
    base_answer: bool = False,
    room: int = 0,
    shared: PrefixKv | None = None,
) -> Passes[Drafts]:
    """Drafts `length` tokens for question i (`prefixes[i]`, all of them after `shared`) with the adapter in `slots[i]`,
    fewer where all drafts end before.

    The base reads along, as rows of the same passes. With `base_answer` one more row lets the base continue
    `prefixes[0]` by itself. `room` keeps space for that many tokens after the draft.
    """
    n = len(slots)
    own = [prefixes[0]] if base_answer else []
    rows = Rows(
        model,
        [*prefixes, *own, *prefixes],
        room=len(activation) + length + room,
        adapters=adapters,
        slots=[*slots, *[BASE_SLOT] * (len(own) + n)],
        shared=shared,
    )
    writing = n + len(own)
    logits = (yield Feed(rows, [activation] * (writing + n)))[:, -1]
    first_logits = logits[:writing]
    by_adapter, by_base = [logits[:n]], [logits[writing:]]
    drafted: list[list[int]] = [[] for _ in range(writing)]
    for step in range(length):
        for row, token in enumerate(logits[:writing].argmax(-1).tolist()):
            drafted[row].append(token)
        fed = [[tokens[-1]] for tokens in drafted]
        logits = (yield Feed(rows, [*fed, *fed[:n]]))[:, -1]
        if step + 1 == length or all(_has_ended(tokens, end_tokens) for tokens in drafted[:n]):
            break
        by_adapter.append(logits[:n])
        by_base.append(logits[writing:])
    rows.keep_rows(range(writing))
    said, read = (torch.stack(seen, 1).float().log_softmax(-1) for seen in (by_adapter, by_base))
    used = [_read(drafted[row], end_tokens) for row in range(n)]
    signals = [signals_of(said[row, :count], read[row, :count], drafted[row][:count]) for row, count in enumerate(used)]
    tokens = [_until_end(drafted[row], end_tokens) for row in range(n)]
    ended = [_has_ended(drafted[row], end_tokens) for row in range(n)]
    return Drafts(tokens, ended, signals, rows, first_logits, logits[:writing], drafted)


draft = by_itself(drafting)
"""As `drafting`, run by itself."""


def signals_of(adapter: Tensor, base: Tensor, tokens: Sequence[int]) -> DraftSignals:
    """Signals from log-probabilities `[tokens, vocabulary]` of adapter and base on the drafted `tokens`."""
    chosen = torch.tensor(list(tokens), device=adapter.device)[:, None]
    divergence = (adapter.exp() * (adapter - base)).sum(-1)
    best = adapter.topk(2, -1).values
    return DraftSignals(
        entropy_base=_entropy(base[:1]),
        entropy_adapter=_entropy(adapter[:1]),
        kl_first=float(divergence[0]),
        kl=float(divergence.mean()),
        entropy_draft=_entropy(adapter),
        margin=float((best[:, 0] - best[:, 1]).mean()),
        likelihood_adapter=float(adapter.gather(1, chosen).mean()),
        likelihood_base=float(base.gather(1, chosen).mean()),
    )


def _entropy(log_probabilities: Tensor) -> float:
    return float(-(log_probabilities.exp() * log_probabilities).sum(-1).mean())


def _read(tokens: Sequence[int], end_tokens: frozenset[int]) -> int:
    """How many drafted tokens count: up to and with the first end token; at least one."""
    ends = [i for i, token in enumerate(tokens) if token in end_tokens]
    return ends[0] + 1 if ends else max(1, len(tokens))


def _has_ended(tokens: Sequence[int], end_tokens: frozenset[int]) -> bool:
    return not end_tokens.isdisjoint(tokens)


def _until_end(tokens: Sequence[int], end_tokens: frozenset[int]) -> list[int]:
    counted = list(tokens[: _read(tokens, end_tokens)])
    return counted[:-1] if counted and counted[-1] in end_tokens else counted
