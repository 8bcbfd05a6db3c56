"""Many answers of one model at once: with a text in the prompt, with an adapter, or with neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from core.adapters.packed import BASE_SLOT, PackedAdapters
from core.base_model.loading import LoadedBase
from core.engine.decoding import prefill_shared, shared_start, write
from core.engine.draft import draft
from core.engine.kv import PrefixKv
from core.gate.features import DRAFT_TOKENS, DraftSignals

ANSWER_TOKENS = 32
BATCH = 48


@dataclass(frozen=True, slots=True)
class Draft:
    """What an adapter drafts, whether it came to its end, and how adapter and base see it."""

    text: str
    ended: bool
    signals: DraftSignals


Told = Callable[[int], None]
"""Called with the number of rows that were done."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question as it is put: `text` in the prompt or none, the adapter of `document_id` or the base alone.

    With `mix` instead, the sum of several documents' adapters, each times its weight.
    """

    question: str
    text: str | None = None
    document_id: str | None = None
    mix: tuple[tuple[str, float], ...] = ()


class Answerer:
    """A base model with the adapters of a bank in `slots`, by document."""

    def __init__(self, base: LoadedBase, adapters: PackedAdapters | None, slots: Mapping[str, int]) -> None:
        self.base = base
        self._adapters = adapters
        self._slots = slots

    def answers(self, asks: Sequence[Ask], told: Told = lambda _: None) -> dict[Ask, str]:
        """Greedy answers of at most `ANSWER_TOKENS` tokens, each distinct ask once.

        The KV of a text is computed once for all its questions. What does not fit the window is answered by nothing.
        """
        by_text: dict[tuple[str | None, bool], list[Ask]] = {}
        for ask in dict.fromkeys(asks):
            by_text.setdefault((ask.text, bool(ask.mix)), []).append(ask)
        found: dict[Ask, str] = {}
        for (text, _), group in by_text.items():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                found.update(self._alone(part) if text is None else self._with_text(part, text))
                told(len(part))
        return found

    @torch.no_grad()
    def drafts(self, asks: Sequence[Ask], told: Told = lambda _: None) -> dict[Ask, Draft]:
        """What the gate reads of each adapter's draft, as in serving; only asks with an adapter."""
        if self._adapters is None:
            return {}
        # Questions beside each other share their prefix.
        distinct = sorted(set(asks), key=lambda ask: (ask.question, ask.document_id or ""))
        found: dict[Ask, Draft] = {}
        for start in range(0, len(distinct), BATCH):
            part = distinct[start : start + BATCH]
            prompts = {ask.question: self.base.chat.ask(ask.question) for ask in part}
            kv = dict(zip(prompts, prefill_shared(self.base.model, [p.prefix for p in prompts.values()]), strict=True))
            drafts = draft(
                self.base.model,
                self._adapters,
                [kv[ask.question] for ask in part],
                prompts[part[0].question].activation,
                [self._slot(ask) for ask in part],
                length=DRAFT_TOKENS,
                end_tokens=self.base.end_tokens,
            )
            texts = [self.base.chat.decode(tokens) for tokens in drafts.tokens]
            found.update(zip(part, map(Draft, texts, drafts.ended, drafts.signals), strict=True))
            told(len(part))
        return found

    @torch.no_grad()
    def _alone(self, asks: Sequence[Ask]) -> dict[Ask, str]:
        prompts = [self.base.chat.ask(ask.question) for ask in asks]
        rows = write(
            self.base.model,
            prefill_shared(self.base.model, [prompt.prefix for prompt in prompts]),
            [prompt.activation for prompt in prompts],
            limit=ANSWER_TOKENS,
            end_tokens=self.base.end_tokens,
            adapters=self._adapters,
            slots=[self._slot(ask) for ask in asks],
            mixes=[{self._slots[id_]: weight for id_, weight in ask.mix} for ask in asks] if asks[0].mix else None,
        )
        return {ask: self.base.chat.decode(row.tokens) for ask, row in zip(asks, rows, strict=True)}

    @torch.no_grad()
    def _with_text(self, asks: Sequence[Ask], text: str) -> dict[Ask, str]:
        window = self.base.description.context_tokens - ANSWER_TOKENS
        prompts = {ask: self.base.chat.ask_about(text, ask.question) for ask in asks}
        fitting = {ask: prompt for ask, prompt in prompts.items() if len(prompt) <= window}
        if not fitting:
            return dict.fromkeys(asks, "")
        shared, rests = shared_start(self.base.model, [prompt.prefix for prompt in fitting.values()], leave=0)
        rows = write(
            self.base.model,
            [PrefixKv.empty(self.base.model)] * len(fitting),
            [[*rest, *prompt.activation] for rest, prompt in zip(rests, fitting.values(), strict=True)],
            limit=ANSWER_TOKENS,
            end_tokens=self.base.end_tokens,
            shared=shared,
        )
        written = {ask: self.base.chat.decode(row.tokens) for ask, row in zip(fitting, rows, strict=True)}
        return {ask: written.get(ask, "") for ask in asks}

    def _slot(self, ask: Ask) -> int:
        return BASE_SLOT if ask.document_id is None else self._slots[ask.document_id]
