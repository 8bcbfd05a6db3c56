"""The way of a question: prompt → candidates → prefix → drafts → gate → answer.

`admit` runs on any thread and does what may take its time without the engine: truth, index, loading adapters to RAM.
`answer` runs on the engine's thread; where it needs the model it asks for a pass, which it shares with other requests.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from core.adapters.packed import PackedAdapters
from core.base_model.chat import Prompt, with_text
from core.base_model.loading import LoadedBase
from core.engine.draft import Drafts, drafting
from core.engine.generation import Answer, generate
from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passer, Passes, Step
from core.engine.prefix_cache import PrefixCache
from core.engine.rows import Rows
from core.engine.sampling import Sampler
from core.errors import (
    AdapterInvalid,
    AdapterPending,
    InvalidRequest,
    NotFound,
    PromptTooLong,
    StorageError,
)
from core.gate.decision import GateModel
from core.gate.features import DRAFT_TOKENS, FEATURES, vector
from core.gate.grounding import grounding
from core.ids import is_id
from core.metrics import InferenceMetrics
from core.residency import MOST_DIGESTS, ResidencyReport
from core.settings import ServingSettings
from workers.inference.api.lora_info import lora_labels
from workers.inference.banks.bank import Bank, Banks, Member
from workers.inference.banks.candidates import Candidate, Proposed, QueryEncoder, Retrieval
from workers.inference.banks.fallback import Backup, FallingBack, FromText
from workers.inference.banks.texts import Texts
from workers.inference.gating import decide, from_text, in_doubt
from workers.inference.prompts import retrieval_query, split_prompt
from workers.inference.question import (
    Absent,
    Decision,
    Delta,
    Finished,
    Judged,
    Mode,
    Question,
    Scope,
    Started,
    Waiting,
)
from workers.inference.scheduler import Work
from workers.inference.tiers.residency import Lease, Residency


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """A question that can be answered: it fits the window, its memories are this tenant's and loaded.

    `salt` keeps its prefix KV apart from others'; `backup` is what texts may do, `None` where they may not.
    """

    question: Question
    prompt: Prompt
    max_tokens: int
    scope: Scope
    candidates: tuple[Candidate, ...]
    absent: tuple[Absent, ...]
    gate: GateModel
    salt: str
    backup: Backup | None = None

    @property
    def digests(self) -> tuple[str, ...]:
        """The adapters that have to be in slots before it begins."""
        return tuple(candidate.member.digest for candidate in self.candidates)


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """Where generation begins: a row that continues `parts` has written `drafted`, and `logits` come next."""

    decision: Decision
    parts: tuple[PrefixKv, ...]
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
        texts: Texts,
    ) -> None:
        self.base = base
        self.banks = banks
        self.texts = texts
        self.residency = residency
        self.metrics = metrics
        self.passer = Passer(base.model, packed)
        self._packed = packed
        self._retrieval = Retrieval(residency, encoder, top_k=settings.top_k, wait_seconds=settings.load_wait_seconds)
        self._fallback = FallingBack(
            texts, encoder, self._about, top_k=settings.top_k, wait_seconds=settings.load_wait_seconds
        )
        self._prefix_cache = prefix_cache
        self._settings = settings

    def admit(self, question: Question) -> Admitted:
        """Checks the question and makes everything ready for it. Raises what the caller has to be told."""
        scope = self._scope(question)
        prompt = self._prompt(question)
        max_tokens = self._limit(question, prompt)
        bank = self.banks.current(question.tenant_id)
        following = self._fallback.allowed(question.tenant_id, bank.revision, scope)
        backup = None
        if following is None:
            self.banks.require(bank, scope.ids or ())
            found = Proposed() if scope.mode == "off" else self._retrieval.propose(question.asked, scope, bank)
        else:
            found, lacking = self._propose_beside_texts(question, scope, bank)
            backup, found = self._fallback.consider(question, scope, following, found, lacking)
        for one in found.absent:
            self.metrics.candidates_unavailable.labels(one.reason).inc()
        gate, salt = self.banks.gate(bank), question.tenant_id
        return Admitted(question, prompt, max_tokens, scope, found.candidates, found.absent, gate, salt, backup)

    def answer(self, admitted: Admitted) -> Work:
        """`Waiting` while the slots are full, then `Started`, a `Delta` per token, `Finished`; between them `Feed` and
        `Step` where a pass of the model is needed."""
        first = admitted.backup.text if admitted.backup and admitted.backup.before else None
        if first is not None:
            decision = from_text(self._decision((), admitted), first.served)
            yield from self._answer_from_text(admitted, decision, first)
            return
        admitted, lease = yield from self._slots(admitted)
        try:
            prefix, reused = yield from self._prefix(admitted)
            opening = yield from self._open(admitted, prefix, lease)
            lease.keep([one.digest for one in opening.decision.active])
            text = None
            if admitted.backup is not None and opening.decision.abstained:
                doubted = in_doubt(opening.decision, admitted.gate.doubt_from)
                text = yield from self._fallback.instead(admitted.question, admitted.backup, doubted)
            if text is not None:
                yield from self._answer_from_text(admitted, from_text(opening.decision, text.served), text)
                return
            yield self._started(opening.decision, admitted, reused)
            yield from self._continue(admitted, opening, lease)
        finally:
            lease.release()

    def follow(self) -> None:
        """Follows the truth of the banks and texts held here; the worker's beat."""
        self.banks.refresh_known()
        self.texts.refresh_known()

    def models(self, tenant_id: str) -> list[Member]:
        """The tenant's memories that can be asked by id."""
        return list(self.banks.current(tenant_id).members.values())

    def model(self, tenant_id: str, memory_id: str) -> Member:
        """One of them. Raises `NotFound` for what is no memory of the tenant's, and as `Banks.require`."""
        if not is_id("mem", memory_id):
            raise _no_model(memory_id)
        bank = self.banks.current(tenant_id)
        self.banks.require(bank, [memory_id])
        return bank.members[memory_id]

    def report(self, running: int, waiting: int) -> ResidencyReport:
        """For the gateway, which prefers a worker that holds the bank; `running` and `waiting` are the engine's."""
        slot, ram, node_cache = self.residency.last_used(MOST_DIGESTS)
        return ResidencyReport(slot, ram, node_cache, running, waiting, self._settings.max_running)

    def show_load(self, waiting_for: Collection[str]) -> None:
        """Sets the gauges that a scrape reads; `waiting_for` are the adapters that waiting requests need."""
        self.residency.show_node_cache()
        labels = lora_labels(self.residency.capacity, self.residency.leased, waiting_for)
        # One series at a time: readers take the latest, and what was so earlier is of no use to them.
        self.metrics.lora_requests_info.clear()
        self.metrics.lora_requests_info.labels(**labels).set(time.time())

    def _scope(self, question: Question) -> Scope:
        """The model's name as a scope: the base's leaves it as asked, a memory's id forces that memory."""
        if question.model == self.base.description.name:
            return question.scope
        if not is_id("mem", question.model):
            raise _no_model(question.model)
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

    def _about(self, question: Question, text: str) -> tuple[Prompt, int]:
        """The question's prompt with `text` in front, and how long its answer may be. Raises `PromptTooLong`."""
        asked = question.asked
        asked = f"{text}\n\n{asked}" if isinstance(asked, str) else with_text(text, asked)
        with_it = replace(question, asked=asked)
        prompt = self._prompt(with_it)
        return prompt, self._limit(with_it, prompt)

    def _propose_beside_texts(self, question: Question, scope: Scope, bank: Bank) -> tuple[Proposed, tuple[str, ...]]:
        """As without texts, but who is asked for by its id may lack its adapter, and is named then."""
        ids = scope.ids or ()
        lacking = tuple(id_ for id_ in ids if id_ not in bank.members)
        there = self.texts.records(question.tenant_id, lacking)
        self.banks.require(bank, [id_ for id_ in lacking if id_ not in there])
        try:
            return self._retrieval.propose(question.asked, scope, bank), lacking
        except (StorageError, AdapterInvalid, AdapterPending):
            if scope.ids is None:
                raise
            # It is not said whose adapter it was.
            return Proposed(), ids

    def _answer_from_text(self, admitted: Admitted, decision: Decision, text: FromText) -> Work:
        """The base answers alone, with the memory's text before the question."""
        with_it = replace(
            admitted, prompt=text.prompt, max_tokens=text.max_tokens, candidates=(), salt=text.salt, backup=None
        )
        lease = self.residency.acquire({})
        assert lease is not None, "no adapter needs no slot"
        prefix, reused = yield from self._prefix(with_it)
        opening = yield from self._open_anew(with_it, decision, prefix, lease)
        yield self._started(decision, with_it, reused)
        yield from self._continue(with_it, opening, lease)

    def _started(self, decision: Decision, admitted: Admitted, reused: int) -> Started:
        self._count(decision, admitted.scope)
        return Started(decision, len(admitted.prompt), reused)

    def _decision(self, judged: Sequence[Judged], admitted: Admitted) -> Decision:
        most = admitted.scope.max_active or self._settings.max_active
        decision = decide(judged, admitted.scope.mode, most, admitted.absent)
        shown = admitted.backup.shown if admitted.backup else ()
        return replace(decision, candidates=(*decision.candidates, *shown))

    def _slots(self, admitted: Admitted) -> Generator[Waiting, Tensor, tuple[Admitted, Lease]]:
        """Waits for slots. What was pinned since the admission may leave room for fewer candidates: the best stay."""
        while True:
            fitting = self.residency.fitting(admitted.digests)
            admitted = replace(admitted, candidates=tuple(c for c in admitted.candidates if c.member.digest in fitting))
            lease = self.residency.acquire({c.member.digest: c.adapter for c in admitted.candidates})
            if lease is not None:
                return admitted, lease
            yield Waiting()

    def _prefix(self, admitted: Admitted) -> Passes[tuple[PrefixKv, int]]:
        tokens = admitted.prompt.prefix
        kv, reused = yield from self._prefix_cache.prefilling(self.base.model, tokens, admitted.salt)
        self.metrics.prompt_tokens.inc(len(admitted.prompt))
        self.metrics.prefix_cache_queries.inc(len(tokens))
        self.metrics.prefix_cache_hits.inc(reused)
        self.metrics.prefix_tokens_reused.inc(reused + len(tokens) * len(admitted.candidates))
        self.metrics.kv_cache_usage.set(self._prefix_cache.stats.usage)
        return kv, reused

    def _open(self, admitted: Admitted, prefix: PrefixKv, lease: Lease) -> Passes[Opening]:
        if not admitted.candidates:
            return (yield from self._open_anew(admitted, self._decision((), admitted), prefix, lease))
        start = time.perf_counter()
        candidates, prompt, n = admitted.candidates, admitted.prompt, len(admitted.candidates)
        drafts = yield from drafting(
            self.base.model,
            self._packed,
            [PrefixKv.empty(self.base.model)] * n,
            prompt.activation,
            [lease.slot(candidate.member.digest) for candidate in candidates],
            length=min(DRAFT_TOKENS, self.base.description.context_tokens - len(prompt)),
            end_tokens=self.base.end_tokens,
            base_answer=True,
            shared=prefix,
        )
        judged = [
            self._judge(candidate, self._features(admitted, candidate, drafts, row), admitted)
            for row, candidate in enumerate(candidates)
        ]
        decision = self._decision(judged, admitted)
        self.metrics.gate_seconds.observe(time.perf_counter() - start)
        if len(decision.active) > 1:
            # Several answer together: no draft is theirs, so their row begins anew from the base's prefix.
            self.metrics.prefix_tokens_reused.inc(len(prompt.prefix))
            return (yield from self._open_anew(admitted, decision, prefix, lease))
        row = judged.index(decision.served) if decision.served else n
        written = drafts.rows.kv(row)
        if admitted.question.sampling.greedy:
            return Opening(decision, (prefix, written), drafts.next_logits[row], tuple(drafts.drafted[row]))
        # A greedy draft is no sample: go back to where the answer begins.
        begun = written.cut(0, len(prompt.activation))
        return Opening(decision, (prefix, begun), drafts.first_logits[row], ())

    def _open_anew(self, admitted: Admitted, decision: Decision, prefix: PrefixKv, lease: Lease) -> Passes[Opening]:
        activation, mix = admitted.prompt.activation, _mix(decision, lease)
        nothing = PrefixKv.empty(self.base.model)
        rows = Rows(
            self.base.model,
            [nothing],
            room=len(activation),
            adapters=self._packed,
            mixes=[mix] if mix else None,
            shared=prefix,
        )
        logits = yield Feed(rows, [activation])
        return Opening(decision, (prefix, rows.kv(0)), logits[0, -1], ())

    def _features(self, admitted: Admitted, candidate: Candidate, drafts: Drafts, row: int) -> tuple[float, ...]:
        """What the gate looks at for the candidate whose draft is in `row`."""
        text = self.base.chat.decode(drafts.tokens[row])
        query = retrieval_query(admitted.question.asked)
        grounded = grounding(query, text, candidate.adapter.index.vocabulary, ended=drafts.ended[row])
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

    def _continue(self, admitted: Admitted, opening: Opening, lease: Lease) -> Work:
        """The answer's own row among those that are running."""
        question, decision = admitted.question, opening.decision
        answer = Answer(
            self.base.chat.decode,
            end_tokens=self.base.end_tokens,
            max_tokens=admitted.max_tokens,
            stops=question.stops,
        )
        row = self.passer.running.join(opening.parts, _mix(decision, lease))
        try:
            writing = generate(row, opening.logits, opening.drafted, Sampler(question.sampling), answer)
            told = next(writing)
            while True:
                if isinstance(told, Step):
                    for one in decision.active:
                        lease.slot(one.digest)
                    told = writing.send((yield told))
                    continue
                if answer.tokens == 1:
                    self.metrics.time_to_first_token.observe(time.perf_counter() - question.arrived)
                self.metrics.generation_tokens.inc()
                yield Delta(told)
                if answer.finish_reason is not None:
                    break
                told = next(writing)
        finally:
            self.passer.running.leave(row)
        assert answer.finish_reason is not None
        self.metrics.request_success.labels(answer.finish_reason).inc()
        yield Finished(answer.finish_reason, answer.tokens)

    def _count(self, decision: Decision, scope: Scope) -> None:
        if scope.mode == "off":
            outcome = "off"
        elif decision.text is not None:
            outcome = "text"
        elif decision.served is None:
            outcome = "abstained"
        else:
            outcome = "forced" if scope.mode == "force" else "activated"
        self.metrics.gate_decisions.labels(outcome).inc()


def _mix(decision: Decision, lease: Lease) -> dict[int, float]:
    """The slots of the memories that answer, and how strongly each speaks; none for the base."""
    return {lease.slot(one.digest): weight for one, weight in zip(decision.active, decision.weights, strict=True)}


def _no_model(name: str) -> NotFound:
    return NotFound(f"The model '{name}' does not exist.", param="model")
