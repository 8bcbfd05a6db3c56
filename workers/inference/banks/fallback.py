"""What may be said from a memory's text where its adapter can't answer: found while a question is admitted.

A memory has no adapter as long as it waits for its job, after a job that came to nothing, and while its adapter can't
be had here. Whether its text is then put before the question is decided by retrieval alone (`core.gate.relevance`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace

from torch import Tensor

from core.base_model.chat import Prompt
from core.errors import InvalidRequest, PromptTooLong, TextPending, TextsFull
from core.gate.features import RetrievalSignals
from core.gate.relevance import RELEVANT, relevance
from core.logs import get_logger
from core.retrieval.index import LEXICAL_WEIGHT, Hit, retrieval_signals
from core.truth.records import ContextRecord
from workers.inference.banks.candidates import REFUSED_SHOWN, Proposed, QueryEncoder
from workers.inference.banks.text_cache import Text, salt_of
from workers.inference.banks.texts import Following, Texts
from workers.inference.loads import problem_of
from workers.inference.prompts import retrieval_query
from workers.inference.question import Absent, Judged, Question, Scope, Waiting

log = get_logger(__name__)

Fit = Callable[[Question, str], tuple[Prompt, int]]
"""The prompt of a question with a text before it, and how long its answer may be. Raises `PromptTooLong`."""


@dataclass(frozen=True, slots=True)
class FromText:
    """A question that a text answers: `served` is the memory, `salt` that of its prefix KV."""

    served: Judged
    prompt: Prompt
    max_tokens: int
    salt: str


@dataclass(frozen=True, slots=True)
class Backup:
    """What the texts can do for a question.

    `text` is the best that is relevant; it goes `before` the gate where no memory with an adapter matches better, and
    after it where the gate abstains. `shown` are all texts that were looked at; `records` say where the texts of the
    gate's candidates are.
    """

    text: FromText | None = None
    before: bool = False
    shown: tuple[Judged, ...] = ()
    records: Mapping[str, ContextRecord] | None = None


PATIENCE_SECONDS = 1.0
"""How long a question that adapters may answer waits for texts beside them."""


class FallingBack:
    """Waits `wait_seconds` at most for texts. Any thread."""

    def __init__(self, texts: Texts, encoder: QueryEncoder, fit: Fit, *, top_k: int, wait_seconds: float) -> None:
        self._texts = texts
        self._encoder = encoder
        self._fit = fit
        self._top_k = top_k
        self._wait_seconds = wait_seconds

    def allowed(self, tenant_id: str, revision: int, scope: Scope) -> Following | None:
        """The tenant's texts, where the tenant and the question let them serve.

        Raises `NotFound`, and `InvalidRequest` where the question asks for what the tenant has not.
        """
        following = self._texts.follow(tenant_id, revision)
        if scope.fallback == "text" and following.fallback == "none":
            raise InvalidRequest("This tenant's setting 'fallback' is 'none'; the admin can set it.", param="memory")
        return None if "none" in (scope.fallback, following.fallback) or scope.mode == "off" else following

    def consider(
        self, question: Question, scope: Scope, following: Following, found: Proposed, lacking: Sequence[str] = ()
    ) -> tuple[Backup, Proposed]:
        """What the texts can do beside `found`, and `found` in one order with them, without those they stand in for.

        `lacking` are memories that are asked for by their ids and have no adapter here. A memory asked for by its id is
        never absent: what is wrong with its text is raised.
        """
        with_adapter = {candidate.member.entry.memory_id: candidate for candidate in found.candidates}
        named = {*with_adapter, *(one.memory_id for one in found.absent), *lacking}
        records = self._texts.records(question.tenant_id, named)
        searched = {**records, **following.searched}
        wanted = [record for id_, record in searched.items() if id_ not in with_adapter and _within(record, scope)]
        if scope.ids is None:
            late = [_left_out(record) for record in following.left_out if _within(record, scope)][:REFUSED_SHOWN]
        else:
            late = []
        if not wanted:
            return Backup(records=records), replace(found, absent=(*found.absent, *late))
        # Who has adapters that may answer waits little for texts that are not there yet.
        patience = min(PATIENCE_SECONDS, self._wait_seconds) if found.candidates else self._wait_seconds
        query = retrieval_query(question.asked)
        embedding = self._encoder.encode([query])[0] if found.embedding is None else found.embedding
        matched, lost = self._search(query, embedding, wanted, scope, patience)
        backup, found = self._choose(question, scope, matched, found, lost)
        stood_in = {one.memory_id for one in backup.shown}
        absent = [one for one in found.absent if one.memory_id not in stood_in]
        told = {one.memory_id for one in absent}
        absent += [one for one in lost if one.memory_id not in told]
        return replace(backup, records=records), replace(found, absent=(*absent, *late))

    def instead(
        self, question: Question, backup: Backup, doubted: Judged | None
    ) -> Generator[Waiting, Tensor, FromText | None]:
        """What answers where the gate abstained: the text of the memory that it is in doubt about, else the relevant
        one. On the engine's thread, where `Waiting` lets others go on while the text is fetched."""
        record = (backup.records or {}).get(doubted.memory_id) if doubted else None
        if doubted is None or record is None:
            return backup.text
        load = self._texts.get(record, indexed=False)
        until = time.monotonic() + self._wait_seconds
        while not load.done() and time.monotonic() < until:
            yield Waiting()
        problem = problem_of(load, TextPending())
        if problem is None:
            try:
                return self._ready(question, load.result(), doubted)
            except (PromptTooLong, InvalidRequest) as unfit:
                problem = unfit
        log.info("in doubt about a memory, and without its text", memory_id=doubted.memory_id, problem=problem.code)
        return backup.text

    def _ready(self, question: Question, text: Text, served: Judged) -> FromText:
        prompt, max_tokens = self._fit(question, text.text)
        served = replace(served, digest=text.digest, by_text=True)
        return FromText(served, prompt, max_tokens, salt_of(text.record))

    def _search(
        self, query: str, embedding: Tensor, wanted: Sequence[ContextRecord], scope: Scope, wait_seconds: float
    ) -> tuple[list[tuple[Text, RetrievalSignals]], list[Absent]]:
        """The texts that match best, and those that can't be had now."""
        loads = [self._texts.get(record, indexed=True) for record in wanted]
        wait(loads, timeout=wait_seconds)
        matched, lost = [], []
        for record, load in zip(wanted, loads, strict=True):
            problem = problem_of(load, TextPending())
            if problem is None:
                text = load.result()
                assert text.index is not None
                matched.append((text, retrieval_signals(query, embedding, text.index, self._encoder.encode)))
            elif scope.ids is not None:
                raise problem
            else:
                lost.append(Absent(record.memory_id, record.title, problem.code))
        matched.sort(key=lambda one: (-strength(one[1]), one[0].record.memory_id))
        return matched[: scope.top_k or self._top_k], lost[:REFUSED_SHOWN]

    def _choose(
        self,
        question: Question,
        scope: Scope,
        matched: Sequence[tuple[Text, RetrievalSignals]],
        found: Proposed,
        lost: list[Absent],
    ) -> tuple[Backup, Proposed]:
        strengths = sorted(
            [*(strength(signals) for _, signals in matched), *(strength(one.signals) for one in found.candidates)],
            reverse=True,
        )

        def hit(memory_id: str, signals: RetrievalSignals) -> Hit:
            return Hit(memory_id, strengths.index(strength(signals)), strength(signals))

        candidates = [replace(one, hit=hit(one.hit.memory_id, one.signals)) for one in found.candidates]
        shown: list[Judged] = []
        best: FromText | None = None
        for text, signals in matched:
            judged = _judged(text, hit(text.record.memory_id, signals), relevance(signals))
            if best is None and (judged.passed or scope.mode == "force"):
                try:
                    best = self._ready(question, text, judged)
                except PromptTooLong as problem:
                    if scope.ids is not None:
                        raise
                    lost.append(Absent(judged.memory_id, judged.title, problem.code, judged.rank, strength(signals)))
                    continue
            shown.append(judged)
        before = best is not None and all(best.served.rank < one.hit.rank for one in candidates)
        return Backup(best, before, tuple(shown)), replace(found, candidates=tuple(candidates))


def strength(signals: RetrievalSignals) -> float:
    """How well a memory matches a question, for the order among memories with an adapter and without."""
    return signals.dense + LEXICAL_WEIGHT * signals.lexical


def _judged(text: Text, hit: Hit, relevant: float) -> Judged:
    return Judged(
        memory_id=hit.memory_id,
        title=text.record.title,
        digest=text.digest,
        rank=hit.rank,
        retrieval_score=hit.score,
        score=relevant,
        threshold=RELEVANT,
        by_text=True,
    )


def _within(record: ContextRecord, scope: Scope) -> bool:
    named = scope.ids is None or record.memory_id in scope.ids
    return named and scope.collection in (None, record.collection)


def _left_out(record: ContextRecord) -> Absent:
    return Absent(record.memory_id, record.title, TextsFull.code)
