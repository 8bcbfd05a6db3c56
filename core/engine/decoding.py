"""Batched generation over prefixes that are computed once: for self-study and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.adapters.packed import PackedAdapters
from core.engine.forward import can_run_together
from core.engine.kv import PrefixKv
from core.engine.rows import Rows, prefill

ROW_TOKENS = 24_576
"""KV tokens that one batch may hold; 46 KB each for a 135M model."""
COMPACT_BELOW = 0.7
"""Finished rows leave the batch once fewer than this share of it still write."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Top-k sampling at a temperature.

    A row draws by its number, so that it writes the same in whatever batch and on whatever rank; `rows` are the numbers
    of a call's rows where they are not 0, 1, 2, …
    """

    seed: int
    temperature: float = 0.8
    top_k: int = 40
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Soft:
    """A distribution for each of n positions: renormalised `log_probabilities` `[n, k]` of `tokens` `[n, k]`."""

    log_probabilities: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What one row wrote: `tokens` without the end token, and for each position, the end's too, what was likely.

    `ended` says whether it came to its end by itself; `likelihood` is the mean log-probability of what it wrote.
    """

    tokens: list[int]
    ended: bool
    likelihood: float
    soft: Soft | None


@torch.no_grad()
def write(
    model: Any,
    prefixes: Sequence[PrefixKv],
    feeds: Sequence[Sequence[int]],
    *,
    limit: int,
    end_tokens: frozenset[int],
    sampling: Sampling | None = None,
    keep_top: int = 0,
    adapters: PackedAdapters | None = None,
    slots: Sequence[int] | None = None,
    mixes: Sequence[Mapping[int, float]] | None = None,
    allowed: Sequence[Tensor] | None = None,
    shared: PrefixKv | None = None,
) -> list[Written]:
    """Lets the model continue `prefixes[i]` and `feeds[i]` for up to `limit` tokens, greedily or by sampling.

    With `keep_top` each row carries the top log-probabilities of every position. With `adapters`, row i is written with
    the adapter in `slots[i]`, or with the weighted sum `mixes[i]`. With `allowed`, row i consists of the tokens in
    `allowed[i]` alone. With `shared`, all of them come after that. Rows run in batches of like length.
    """
    noise = _noise(sampling, len(feeds), limit)
    order = sorted(range(len(feeds)), key=lambda i: (len(prefixes[i]) + len(feeds[i]), len(feeds[i])))
    written: list[Written | None] = [None] * len(feeds)
    copied = _copied(model, shared)
    for batch in batches(order, [copied + len(p) + len(f) + limit for p, f in zip(prefixes, feeds, strict=True)]):
        rows = Rows(
            model,
            [prefixes[i] for i in batch],
            room=max(len(feeds[i]) for i in batch) + limit,
            adapters=adapters,
            slots=None if slots is None else [slots[i] for i in batch],
            mixes=None if mixes is None else [mixes[i] for i in batch],
            shared=shared,
        )
        permitted = None if allowed is None else [allowed[i] for i in batch]
        run = _Batch(rows, [feeds[i] for i in batch], limit, keep_top, permitted)
        done = run.finish(end_tokens, sampling, None if noise is None else noise[batch])
        for i, row in zip(batch, done, strict=True):
            written[i] = row
    return [row for row in written if row is not None]


def batches(order: Sequence[int], lengths: Sequence[int], budget: int = ROW_TOKENS) -> list[list[int]]:
    """Cuts `order` into runs whose rows, padded to the longest, hold at most `budget` tokens; at least one a run."""
    runs: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        if runs and longest * (len(runs[-1]) + 1) <= budget:
            runs[-1].append(i)
        else:
            runs.append([i])
            longest = lengths[i]
    return runs


def prefill_shared(model: Any, tokens: Sequence[Sequence[int]]) -> list[PrefixKv]:
    """The base's KV of each sequence; what all of them begin with is computed once."""
    if not tokens:
        return []
    shared, rests = shared_start(model, tokens, leave=1)
    return [PrefixKv.join([shared, rest]) for rest in prefill_rests(model, shared, rests)]


def prefill_rests(model: Any, shared: PrefixKv, rests: Sequence[Sequence[int]]) -> list[PrefixKv]:
    """The base's KV of each of `rests`, without that of `shared`, which comes before; in batches of like length."""
    result: list[PrefixKv | None] = [None] * len(rests)
    order = sorted(range(len(rests)), key=lambda i: len(rests[i]))
    copied = _copied(model, shared)
    for batch in batches(order, [copied + len(row) for row in rests]):
        for i, kv in zip(batch, prefill(model, [rests[i] for i in batch], shared), strict=True):
            result[i] = kv
    return [kv for kv in result if kv is not None]


def _copied(model: Any, shared: PrefixKv | None) -> int:
    """How many tokens of a shared start each row holds: none where the model can share it."""
    return 0 if shared is None or can_run_together(model) else len(shared)


def shared_start(model: Any, tokens: Sequence[Sequence[int]], leave: int) -> tuple[PrefixKv, list[list[int]]]:
    """KV of the longest common start, and what remains of each sequence: at least `leave` tokens."""
    shared = min(common_length(tokens), min(len(row) for row in tokens) - leave)
    past = prefill(model, [tokens[0][:shared]])[0] if shared > 0 else PrefixKv.empty(model)
    return past, [list(row[max(shared, 0) :]) for row in tokens]


def common_length(tokens: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with alike."""
    length = 0
    for column in zip(*tokens, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def soft_of(logits: Tensor, top: int) -> Soft:
    """The `top` likeliest tokens of logits `[n, vocabulary]`, renormalised among themselves."""
    values, tokens = logits.float().topk(min(top, logits.shape[-1]), -1)
    return Soft(values.log_softmax(-1), tokens)


def hard_of(tokens: Sequence[int]) -> Soft:
    """All weight on the given tokens."""
    column = torch.tensor(list(tokens))[:, None]
    return Soft(torch.zeros(column.shape), column)


class _Batch:
    """Rows that write together, leaving as they finish."""

    def __init__(
        self,
        rows: Rows,
        feeds: Sequence[Sequence[int]],
        limit: int,
        keep_top: int,
        allowed: Sequence[Tensor] | None = None,
    ) -> None:
        self._limit = limit
        self._keep_top = keep_top
        self._rows = rows
        self._logits = rows.feed(feeds)[:, -1].float()
        self._tokens: list[list[int]] = [[] for _ in feeds]
        self._sums = [0.0] * len(feeds)
        self._soft: list[list[Soft]] = [[] for _ in feeds]
        self._ended = [False] * len(feeds)
        self._forbidden = None if allowed is None else _all_but(allowed, self._logits)

    def finish(self, end_tokens: frozenset[int], sampling: Sampling | None, noise: Tensor | None) -> list[Written]:
        present = list(range(len(self._tokens)))
        for step in range(self._limit + 1):
            logits = self._logits
            if self._forbidden is not None:
                logits = logits.masked_fill(self._forbidden[present], -torch.inf)
            choice = _choose(logits, sampling, None if noise is None else noise[present, min(step, self._limit - 1)])
            chances = logits.log_softmax(-1).gather(1, choice[:, None])[:, 0].tolist()
            soft = soft_of(logits, self._keep_top) if self._keep_top else None
            tokens = choice.tolist()
            for at, row in enumerate(present):
                self._note(row, tokens[at], chances[at], soft, at, end_tokens, last=step == self._limit)
            writing = [at for at, row in enumerate(present) if not self._ended[row]]
            if not writing or step == self._limit:
                break
            if len(writing) < COMPACT_BELOW * len(present):
                self._rows.keep_rows(writing)
                present, tokens = [present[at] for at in writing], [tokens[at] for at in writing]
            self._logits = self._rows.feed([[token] for token in tokens])[:, -1].float()
        return [self._written(row) for row in range(len(self._tokens))]

    def _note(
        self,
        row: int,
        token: int,
        chance: float,
        soft: Soft | None,
        at: int,
        end_tokens: frozenset[int],
        *,
        last: bool,
    ) -> None:
        if self._ended[row]:
            return
        if last and token not in end_tokens:
            return
        self._sums[row] += chance
        if soft is not None:
            self._soft[row].append(Soft(soft.log_probabilities[at], soft.tokens[at]))
        if token in end_tokens:
            self._ended[row] = True
        else:
            self._tokens[row].append(token)

    def _written(self, row: int) -> Written:
        steps = self._soft[row]
        soft = (
            Soft(torch.stack([s.log_probabilities for s in steps]), torch.stack([s.tokens for s in steps]))
            if steps
            else None
        )
        count = len(self._tokens[row]) + self._ended[row]
        return Written(self._tokens[row], self._ended[row], self._sums[row] / max(1, count), soft)


def _all_but(allowed: Sequence[Tensor], like: Tensor) -> Tensor:
    """Which tokens a row may not choose, `[rows, vocabulary]`."""
    forbidden = torch.ones(like.shape, dtype=torch.bool)
    for row, tokens in enumerate(allowed):
        forbidden[row, tokens] = False
    return forbidden.to(like.device)


def _choose(logits: Tensor, sampling: Sampling | None, noise: Tensor | None) -> Tensor:
    if sampling is None or noise is None:
        return logits.argmax(-1)
    values, tokens = logits.topk(min(sampling.top_k, logits.shape[-1]), -1)
    cumulative = (values / sampling.temperature).softmax(-1).cumsum(-1)
    index = (cumulative < noise.to(cumulative)[:, None]).sum(-1).clamp(max=values.shape[-1] - 1)
    return tokens.gather(1, index[:, None])[:, 0]


def _noise(sampling: Sampling | None, rows: int, limit: int) -> Tensor | None:
    if sampling is None:
        return None
    numbers = list(range(rows)) if sampling.rows is None else list(sampling.rows)
    generator = torch.Generator().manual_seed(sampling.seed)
    return torch.rand(max(numbers, default=0) + 1, limit, generator=generator)[numbers]
