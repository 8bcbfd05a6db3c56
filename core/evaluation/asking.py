"""Asks a suite under every condition, with the components that serve: retrieval, drafts, gate, batched generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from core.evaluation.answering import Answerer, Ask
from core.evaluation.bank import EvaluatedBank
from core.evaluation.judging import choose, entropy_of, features_of, mix
from core.evaluation.pairs import Pair, draw_wrong, pairs_of
from core.evaluation.records import Condition, Judgement, Record
from core.evaluation.suite import Question, Suite
from core.retrieval.entries import entries_of
from core.retrieval.index import BankIndex, MemoryIndex


class TextEncoder(Protocol):
    """What is needed of `core.retrieval.encoder.Encoder`."""

    def encode(self, texts: Sequence[str]) -> Tensor: ...


Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Routing:
    """`top_k` candidates a question, of which at most `max_active` speak; the wrong memories are drawn with `seed`."""

    top_k: int
    seed: int
    max_active: int = 1


def ask_suite(
    suite: Suite, bank: EvaluatedBank, encoder: TextEncoder, answerer: Answerer, routing: Routing, told: Progress
) -> tuple[list[Record], list[Judgement]]:
    """One record a question, in the suite's order, and a judgement for each pair of question and memory."""
    ranked = _ranked(suite, bank.index, bank.document_of, encoder)
    texts = _ranked(suite, _of_texts(suite, bank, encoder), str, encoder)
    wrong = {q.id: draw_wrong(q, list(bank.members), routing.seed) for q in suite.questions}
    pairs = [p for q in suite.questions for p in pairs_of(q, ranked[q.id], routing.top_k, wrong[q.id])]
    judgements = _judge(suite, bank, encoder, answerer, pairs, told)
    chosen = _chosen(bank, judgements, routing)
    asks = {q.id: _asks(q, suite, bank, texts[q.id], wrong[q.id], chosen.get(q.id, {})) for q in suite.questions}
    wanted = [ask for of_question in asks.values() for ask in of_question.values() if ask is not None]
    answers = answerer.answers(wanted, _counter("answering", len(set(wanted)), told))
    records = [
        Record(
            q,
            {condition: "" if ask is None else answers[ask] for condition, ask in asks[q.id].items()},
            tuple(ranked[q.id][: routing.top_k]),
            tuple(chosen.get(q.id, ())),
        )
        for q in suite.questions
    ]
    return records, judgements


def _ranked(
    suite: Suite, index: BankIndex, document_of: Callable[[str], str], encoder: TextEncoder
) -> dict[str, list[str]]:
    """By question: all documents of the index, best match first."""
    embeddings = encoder.encode([question.text for question in suite.questions])
    return {
        question.id: [document_of(hit.memory_id) for hit in index.search(question.text, embedding, len(index))]
        for question, embedding in zip(suite.questions, embeddings, strict=True)
    }


def _of_texts(suite: Suite, bank: EvaluatedBank, encoder: TextEncoder) -> BankIndex:
    """What text retrieval searches: the memories' indexes, and the bare texts of documents whose memory failed."""
    indexes = []
    for document in suite.documents:
        member = bank.members.get(document.id)
        entries = entries_of(document.title, document.text, []) if member is None else member.index.entries
        embeddings = encoder.encode(entries) if member is None else member.index.embeddings
        indexes.append(MemoryIndex(document.id, document.title, tuple(entries), embeddings))
    return BankIndex(indexes)


def _judge(
    suite: Suite,
    bank: EvaluatedBank,
    encoder: TextEncoder,
    answerer: Answerer,
    pairs: Sequence[Pair],
    told: Progress,
) -> list[Judgement]:
    questions = {question.id: question for question in suite.questions}
    embeddings = dict(zip(questions, encoder.encode([q.text for q in questions.values()]), strict=True))
    drafted = {pair: Ask(questions[pair.question_id].text, document_id=pair.document_id) for pair in pairs}
    total = len(set(drafted.values()))
    drafts = answerer.drafts(list(drafted.values()), _counter("drafting for the gate", total, told))
    judgements = []
    for pair in pairs:
        member = bank.members[pair.document_id]
        question = questions[pair.question_id].text
        draft, embedding = drafts[drafted[pair]], embeddings[pair.question_id]
        features = features_of(question, embedding, draft, member.index, encoder.encode)
        scored = bank.gates.judge(member.memory_id, features)
        judgements.append(Judgement(pair, features, scored.score, scored.threshold, entropy_of(features)))
    return judgements


def _chosen(bank: EvaluatedBank, judgements: Sequence[Judgement], routing: Routing) -> dict[str, dict[str, float]]:
    """By question: the documents whose memories the gate activates, best first, and their weights; candidates alone."""
    candidates: dict[str, dict[str, Judgement]] = {}
    for judgement in judgements:
        if judgement.pair.rank < routing.top_k:
            candidates.setdefault(judgement.pair.question_id, {})[judgement.pair.document_id] = judgement
    chosen = {}
    for question_id, found in candidates.items():
        judged = [bank.gates.judge(bank.members[d].memory_id, j.features) for d, j in found.items()]
        active = choose(judged, routing.max_active)
        weights = mix([one.score for one in active]) if active else ()
        chosen[question_id] = {
            bank.document_of(one.memory_id): weight for one, weight in zip(active, weights, strict=True)
        }
    return chosen


def _asks(
    question: Question,
    suite: Suite,
    bank: EvaluatedBank,
    retrieved: Sequence[str],
    wrong: str | None,
    chosen: Mapping[str, float],
) -> Mapping[Condition, Ask | None]:
    """How the question is put under each condition that applies; `None` where its memory failed, which is no answer."""
    if question.role == "near_miss":
        return {"routed": _with(question, chosen)}
    texts = {document.id: document.text for document in suite.documents}
    alone = Ask(question.text)
    asks: dict[Condition, Ask | None] = {"no_memory": alone, "routed": _with(question, chosen)}
    if question.role == "general":
        return asks
    asks["full_context"] = replace(alone, text="\n\n".join(texts[id_] for id_ in question.documents))
    asks["rag"] = replace(alone, text="\n\n".join(texts[id_] for id_ in retrieved[: len(question.documents)]))
    own = [id_ for id_ in question.documents if id_ in bank.members]
    asks["oracle"] = _with(question, dict.fromkeys(own, 1.0)) if own else None
    if wrong is not None:
        asks["wrong_adapter"] = replace(alone, document_id=wrong)
    return asks


def _with(question: Question, active: Mapping[str, float]) -> Ask:
    """With the memories of these documents, each times its weight; with none, the base alone."""
    if len(active) > 1:
        return Ask(question.text, mix=tuple(active.items()))
    return Ask(question.text, document_id=next(iter(active), None))


def _counter(what: str, total: int, told: Progress) -> Callable[[int], None]:
    done = 0
    told(what, 0, total)

    def count(more: int) -> None:
        nonlocal done
        done += more
        told(what, done, total)

    return count
