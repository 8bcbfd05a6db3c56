"""Hand-made questions, records and judgements."""

from __future__ import annotations

from collections.abc import Sequence

from core.evaluation.judging import NAMES
from core.evaluation.pairs import Pair, PairKind
from core.evaluation.records import Condition, Judgement, Made, Record
from core.evaluation.suite import Document, Question, Role

ALL_RIGHT: dict[Condition, str] = {
    "no_memory": "no idea",
    "full_context": "It is slate.",
    "rag": "slate",
    "wrong_adapter": "no idea",
    "oracle": "slate",
    "routed": "slate",
}


def question(id_: str, role: Role = "document", documents: Sequence[str] = ("a",), type_: str = "direct") -> Question:
    answers = () if role == "near_miss" else ("slate",)
    of = () if role == "general" else tuple(documents)
    return Question(id_, role, type_ if role == "document" else role, f"What is {id_}?", answers, of)


def record(
    id_: str,
    *,
    role: Role = "document",
    document: str = "a",
    type_: str = "direct",
    candidates: Sequence[str] = ("a", "b"),
    chosen: Sequence[str] = ("a",),
    **answers: str,
) -> Record:
    """A record of `ALL_RIGHT` with other answers where `answers` says so."""
    asked = {condition: answers.get(condition, answer) for condition, answer in ALL_RIGHT.items()}
    if role == "general":
        asked = {condition: answer for condition, answer in asked.items() if condition in ("no_memory", "routed")}
    return Record(question(id_, role, (document,), type_), asked, tuple(candidates), tuple(chosen))


def judgement(
    question_id: str, kind: PairKind, score: float, *, document: str = "a", rank: int = 0, entropy: float = 1.0
) -> Judgement:
    return Judgement(
        Pair(question_id, document, kind, rank), tuple(float(i) for i in range(len(NAMES))), score, 0.5, entropy
    )


def made(
    id_: str = "a", *, words: int = 10, kind: str = "town", submitted: float = 100.0, finished: float = 130.0
) -> Made:
    return Made(
        Document(id_, kind, f"Title of {id_}", "word " * words),
        f"mem_{id_}",
        True,
        None,
        submitted,
        finished,
        submitted + 5.0,
        bytes=1000,
        adapter_bytes=900,
        kv_bytes=5000,
        seconds_by_phase={"self_study": 10.0, "training": 12.0},
        losses=((5, 2.0), (10, 0.5)),
    )
