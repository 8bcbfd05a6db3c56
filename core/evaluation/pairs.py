"""Which memories the gate is shown each question with, and what each such pair is; pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.evaluation.suite import Question

PairKind = Literal["own", "near_miss", "wrong", "unrelated", "general", "cross"]
NEGATIVE: tuple[PairKind, ...] = ("near_miss", "wrong", "unrelated", "general")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the memory of a document; `rank` is that memory's in retrieval, from 0.

    `own`: the memory holds the answer. `near_miss`: the question resembles its text, which does not answer it.
    `wrong`: the memory of another document, drawn by the seed. `unrelated`: any other memory among the candidates of a
    question of the suite's documents. `general`: an everyday question and one of its candidates. `cross`: a question
    that needs two documents, and any of its candidates; no figure of the gate counts it.
    """

    question_id: str
    document_id: str
    kind: PairKind
    rank: int


def pairs_of(question: Question, ranked: Sequence[str], top_k: int, drawn: str | None) -> list[Pair]:
    """The pairs of a question. `ranked` are all documents with a memory, best first, the first `top_k` its candidates.

    `drawn` is the document whose memory is the wrong one. It may be among the candidates too, and is then in two pairs.
    """
    ranks = {document_id: rank for rank, document_id in enumerate(ranked)}
    own = [document_id for document_id in question.documents if document_id in ranks]
    candidates = [document_id for document_id in ranked[:top_k] if document_id not in own]
    if question.role == "cross":
        return [Pair(question.id, document_id, "cross", ranks[document_id]) for document_id in (*own, *candidates)]
    kind: PairKind = "near_miss" if question.role == "near_miss" else "own"
    other: PairKind = "general" if question.role == "general" else "unrelated"
    wrong = [drawn] if drawn in ranks else []
    listed: list[tuple[str, PairKind]] = [
        *((document_id, kind) for document_id in own),
        *((document_id, "wrong") for document_id in wrong if document_id is not None),
        *((document_id, other) for document_id in candidates),
    ]
    return [Pair(question.id, document_id, kind, ranks[document_id]) for document_id, kind in listed]


def draw_wrong(question: Question, documents: Sequence[str], seed: int) -> str | None:
    """Another document of `documents` than the question's own, by the seed; `None` where there is no other.

    Only questions that one document answers have a wrong one. What is drawn depends on nothing but the arguments.
    """
    others = [document_id for document_id in documents if document_id not in question.documents]
    if question.role != "document" or not others:
        return None
    return random.Random(f"{seed}/{question.id}").choice(others)  # nosec B311
