"""The way of a question: prompt → candidates → prefix → drafts → gate → answer.

`admit` runs on any thread and does what may take its time without the engine: truth, index, loading adapters to RAM.
`answer` runs on the engine's thread, a step between any two of its events.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from core.adapters.packed import BASE_SLOT, PackedAdapters
from core.adapters.peft_format import LoadedAdapter
from core.base_model.chat import Prompt
from core.base_model.loading import LoadedBase
from core.engine.draft import Drafts, draft
from core.engine.generation import Answer, generate
from core.engine.kv import PrefixKv
from core.engine.prefix_cache import PrefixCache
from core.engine.rows import Rows
from core.engine.sampling import Sampler
from core.errors import InvalidRequest, LatentBankError, NotFound, PromptTooLong
from core.gate.decision import GateModel
from core.gate.features import DRAFT_TOKENS, FEATURES, RetrievalSignals, vector
from core.gate.grounding import grounding
from core.ids import is_id
from core.metrics import InferenceMetrics
from core.retrieval.index import Hit, retrieval_signals
from core.settings import ServingSettings
from workers.inference.bank import Bank, Banks, Member
from workers.inference.gating import decide
from workers.inference.prompts import retrieval_query, split_prompt
from workers.inference.question import (
    Decision,
    Delta,
    Event,
    Finished,
    Judged,
    Mode,
    Question,
    Scope,
    Started,
    Waiting,
)
from workers.inference.residency import Lease, Residency


class QueryEncoder(Protocol):
    """What the service needs of `core.retrieval.encoder.Encoder`."""

    reference: str

    def encode(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A memory that retrieval proposes, its adapter in RAM."""

    member: Member
    hit: Hit
    signals: RetrievalSignals
    adapter: LoadedAdapter


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """A question that can be answered: it fits the window, its memories are this tenant's and loaded."""

    question: Question
    prompt: Prompt
    max_tokens: int
    scope: Scope
    candidates: tuple[Candidate, ...]
    gate: GateModel


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """Where generation begins: a row with `kv` has written `drafted`, and `logits` come next."""

    decision: Decision
    kv: PrefixKv
    logits: Tensor
    drafted: tuple[int, ...]


class Service:
    """Answers questions of all tenants with one base model."""

    def __init__(
        self,
        base: LoadedBase,
        packed: PackedAdapters,
        banks: Banks,
        residency: Residency,
        encoder: QueryEncoder,
        prefix_cache: PrefixCache,
        settings: ServingSettings,
        metrics: InferenceMetrics,
    ) -> None:
        self.base = base
        self.banks = banks
        self.residency = residency
        self.metrics = metrics
        self._packed = packed
        self._encoder = encoder
        self._prefix_cache = prefix_cache
        self._settings = settings

    def admit(self, question: Question) -> Admitted:
        """Checks the question and makes everything ready for it. Raises what the caller has to be told."""
        scope = self._scope(question)
        prompt = self._prompt(question)
        max_tokens = self._limit(question, prompt)
        bank = self.banks.current(question.tenant_id)
        self.banks.require(bank, scope.ids or ())
        candidates = () if scope.mode == "off" else self._candidates(question, scope, bank)
        return Admitted(question, prompt, max_tokens, scope, candidates, self.banks.gate(bank))

    def answer(self, admitted: Admitted) -> Generator[Event, None, None]:
        """`Waiting` while the slots are full, then `Started`, a `Delta` per token, `Finished`."""
        lease = self.residency.acquire({c.member.digest: c.adapter for c in admitted.candidates})
        while lease is None:
            yield Waiting()
            lease = self.residency.acquire({c.member.digest: c.adapter for c in admitted.candidates})
        try:
            prompt = admitted.prompt
            prefix, reused = self._prefix(admitted)
            opening = self._open(admitted, prefix, lease)
            lease.keep([one.digest for one in opening.decision.active])
            yield Started(opening.decision, len(prompt), reused)
            yield from self._continue(admitted, opening, lease)
        finally:
            lease.release()

    def models(self, tenant_id: str) -> list[Member]:
        """The tenant's memories that can be asked by id."""
        return list(self.banks.current(tenant_id).members.values())

    def show_load(self, waiting: int) -> None:
        """Sets the gauges that a scrape reads; `waiting` requests have no slot yet."""
        self.residency.show_node_cache()
        info = self.metrics.lora_requests_info
        info.clear()
        info.labels(self.residency.capacity, self.residency.in_use, waiting).set(time.time())

    def _scope(self, question: Question) -> Scope:
        """The model's name as a scope: the base's leaves it as asked, a memory's id forces that memory."""
        if question.model == self.base.description.name:
            return question.scope
        if not is_id("mem", question.model):
            raise NotFound(f"The model '{question.model}' does not exist.", param="model")
        mode: Mode = "off" if question.scope.mode == "off" else "force"
        return replace(question.scope, ids=(question.model,), collection=None, mode=mode)

    def _prompt(self, question: Question) -> Prompt:
        if not isinstance(question.asked, str):
            return self.base.chat.prompt(question.asked)
        ids = self.base.chat.tokenizer.encode(question.asked)
        if not ids:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        return split_prompt(ids, self.base.description.activation_tokens)

    def _limit(self, question: Question, prompt: Prompt) -> int:
        """How many tokens the answer may have."""
        room = self.base.description.context_tokens - len(prompt)
        most = self._settings.max_new_tokens
        wanted = min(question.max_tokens or most, most)
        if room < 1 or (question.max_tokens is not None and wanted > room):
            raise PromptTooLong(
                f"The prompt has {len(prompt)} tokens; with {wanted} more for the answer it does not fit the window of "
                f"{self.base.description.context_tokens}."
            )
        return min(wanted, room)

    def _candidates(self, question: Question, scope: Scope, bank: Bank) -> tuple[Candidate, ...]:
        allowed = None if scope.ids is None else frozenset(scope.ids)
        if scope.collection is not None:
            inside = bank.in_collection(scope.collection)
            allowed = inside if allowed is None else allowed & inside
        if not bank.members or (allowed is not None and not allowed):
            return ()
        query = retrieval_query(question.asked)
        top_k = min(scope.top_k or self._settings.top_k, self.residency.capacity)
        embedding = self._encoder.encode([query])[0]
        hits = bank.index.search(query, embedding, top_k, allowed)
        found = []
        for hit in hits:
            member = bank.members[hit.memory_id]
            try:
                adapter = self.residency.load(member.manifest)
            except LatentBankError:
                # Counted and logged where it happened. One bad memory silences itself, not the bank.
                if scope.ids is not None:
                    raise
                continue
            signals = retrieval_signals(query, embedding, member.index, self._encoder.encode)
            found.append(Candidate(member, hit, signals, adapter))
        return tuple(found)

    def _prefix(self, admitted: Admitted) -> tuple[PrefixKv, int]:
        tokens = admitted.prompt.prefix
        kv, reused = self._prefix_cache.prefill(self.base.model, tokens, admitted.question.tenant_id)
        self.metrics.prompt_tokens.inc(len(admitted.prompt))
        self.metrics.prefix_cache_queries.inc(len(tokens))
        self.metrics.prefix_cache_hits.inc(reused)
        self.metrics.prefix_tokens_reused.inc(reused + len(tokens) * len(admitted.candidates))
        self.metrics.kv_cache_usage.set(self._prefix_cache.stats.usage)
        return kv, reused

    def _open(self, admitted: Admitted, prefix: PrefixKv, lease: Lease) -> Opening:
        if not admitted.candidates:
            return self._open_base(admitted, prefix)
        start = time.perf_counter()
        candidates, prompt, n = admitted.candidates, admitted.prompt, len(admitted.candidates)
        drafts = draft(
            self.base.model,
            self._packed,
            [prefix] * n,
            prompt.activation,
            [lease.slot(candidate.member.digest) for candidate in candidates],
            length=min(DRAFT_TOKENS, self.base.description.context_tokens - len(prompt)),
            end_tokens=self.base.end_tokens,
            base_answer=True,
        )
        judged = [
            self._judge(candidate, self._features(admitted, candidate, drafts, row), admitted)
            for row, candidate in enumerate(candidates)
        ]
        decision = decide(judged, admitted.scope.mode, admitted.scope.max_active or self._settings.max_active)
        self.metrics.gate_seconds.observe(time.perf_counter() - start)
        self._count(decision, admitted.scope)
        if len(decision.active) > 1:
            return self._open_mix(admitted, decision, prefix, lease)
        row = judged.index(decision.served) if decision.served else n
        kv = drafts.rows.kv(row)
        if admitted.question.sampling.greedy:
            return Opening(decision, kv, drafts.next_logits[row], tuple(drafts.drafted[row]))
        # A greedy draft is no sample: go back to where the answer begins.
        return Opening(decision, kv.cut(0, len(prompt)), drafts.first_logits[row], ())

    def _open_mix(self, admitted: Admitted, decision: Decision, prefix: PrefixKv, lease: Lease) -> Opening:
        """Several memories answer together: no draft is theirs, so their row begins anew from the base's prefix."""
        prompt = admitted.prompt
        with torch.no_grad():
            rows = Rows(
                self.base.model,
                [prefix],
                room=len(prompt.activation),
                adapters=self._packed,
                mixes=[_mix(decision, lease)],
            )
            logits = rows.feed([prompt.activation])[0, -1]
        self.metrics.prefix_tokens_reused.inc(len(prompt.prefix))
        return Opening(decision, rows.kv(0), logits, ())

    def _open_base(self, admitted: Admitted, prefix: PrefixKv) -> Opening:
        decision = decide((), admitted.scope.mode)
        self._count(decision, admitted.scope)
        with torch.no_grad():
            rows = Rows(self.base.model, [prefix], room=len(admitted.prompt.activation))
            logits = rows.feed([admitted.prompt.activation])[0, -1]
        return Opening(decision, rows.kv(0), logits, ())

    def _features(self, admitted: Admitted, candidate: Candidate, drafts: Drafts, row: int) -> tuple[float, ...]:
        """What the gate looks at for the candidate whose draft is in `row`."""
        text = self.base.chat.decode(drafts.tokens[row])
        query = retrieval_query(admitted.question.asked)
        grounded = grounding(query, text, candidate.member.index.vocabulary, ended=drafts.ended[row])
        return vector(candidate.signals, drafts.signals[row], grounded)

    def _judge(self, candidate: Candidate, features: tuple[float, ...], admitted: Admitted) -> Judged:
        member, gate, scope = candidate.member, admitted.gate, admitted.scope
        score = gate.score(features)
        self.metrics.gate_score.observe(score)
        return Judged(
            memory_id=member.entry.memory_id,
            title=member.entry.title,
            digest=member.digest,
            rank=candidate.hit.rank,
            retrieval_score=candidate.hit.score,
            score=score,
            threshold=gate.threshold if scope.threshold is None else scope.threshold,
            signals=dict(zip(FEATURES, features, strict=True)) if scope.explain else None,
        )

    def _continue(self, admitted: Admitted, opening: Opening, lease: Lease) -> Generator[Event, None, None]:
        """The answer's own row: the opening's KV, joined with what is still to come."""
        question, decision = admitted.question, opening.decision
        answer = Answer(
            self.base.chat.decode,
            end_tokens=self.base.end_tokens,
            max_tokens=admitted.max_tokens,
            stops=question.stops,
        )
        rows = self._rows(opening, admitted.max_tokens, lease)
        for text in generate(rows, opening.logits, opening.drafted, Sampler(question.sampling), answer):
            if answer.tokens == 1:
                self.metrics.time_to_first_token.observe(time.perf_counter() - question.arrived)
            self.metrics.generation_tokens.inc()
            yield Delta(text)
            for one in decision.active:
                lease.slot(one.digest)
        assert answer.finish_reason is not None
        self.metrics.request_success.labels(answer.finish_reason).inc()
        yield Finished(answer.finish_reason, answer.tokens)

    def _rows(self, opening: Opening, room: int, lease: Lease) -> Rows:
        decision, prefixes = opening.decision, [opening.kv]
        if len(decision.active) > 1:
            mixes = [_mix(decision, lease)]
            return Rows(self.base.model, prefixes, room=room, adapters=self._packed, mixes=mixes)
        slots = [lease.slot(decision.served.digest) if decision.served else BASE_SLOT]
        return Rows(self.base.model, prefixes, room=room, adapters=self._packed, slots=slots)

    def _count(self, decision: Decision, scope: Scope) -> None:
        if scope.mode == "off":
            outcome = "off"
        elif decision.served is None:
            outcome = "abstained"
        else:
            outcome = "forced" if scope.mode == "force" else "activated"
        self.metrics.gate_decisions.labels(outcome).inc()


def _mix(decision: Decision, lease: Lease) -> dict[int, float]:
    """The slots of the memories that answer together, and how strongly each speaks."""
    return {lease.slot(one.digest): weight for one, weight in zip(decision.active, decision.weights, strict=True)}
