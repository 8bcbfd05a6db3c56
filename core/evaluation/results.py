"""The JSON of an evaluation: plain numbers under the keys of issue 3, intervals beside them under `intervals`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.evaluation.costs import cost_of, latency_of
from core.evaluation.figures import (
    Figures,
    answer_figures,
    mean,
    of_documents,
    of_role,
    restraint_figures,
    retention,
    right_under,
)
from core.evaluation.gate_figures import gate_figures
from core.evaluation.records import CONDITIONS, Condition, Judgement, Made, Outcome, Record
from core.evaluation.suite import Document

SHORT_WORDS = 160
"""Longest document of the length `short`."""

_BROKEN_DOWN: tuple[Condition, ...] = ("no_memory", "full_context", "rag", "oracle", "routed")


def results_of(
    outcome: Outcome, *, suite: str, seed: int, settings: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Everything, ready for JSON. Where a figure is not defined for a suite, its value is null."""
    records = outcome.records
    figures: Figures = {
        **answer_figures(records, seed),
        **restraint_figures(records, seed),
        **gate_figures(outcome.judgements, seed),
        **latency_of(outcome.served, records, seed),
    }
    documents = [made.document for made in outcome.made]
    return {
        "suite": {"name": suite, "documents": len(documents), "questions": _counts(records)},
        "seed": seed,
        "settings": dict(settings),
        "versions": dict(versions),
        **_nested({name: figure.value for name, figure in figures.items()}),
        "cost": cost_of(outcome.made, outcome.peak_rss_bytes),
        "intervals": _nested(
            {
                name: {"value": figure.value, "interval": figure.interval, "n": figure.n}
                for name, figure in figures.items()
            }
        ),
        "by_type": _by_type(records, seed),
        "by_length": {name: _broken_down(of_documents(records, ids), seed) for name, ids in _lengths(documents)},
        "documents": [_document(made, records) for made in outcome.made],
        "answers": [_answer(record, outcome.judgements) for record in records],
    }


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, key = name.partition(".")
        nested.setdefault(section, {})[key] = value
    return nested


def _counts(records: Sequence[Record]) -> dict[str, int]:
    types = [record.question.type for record in records]
    return {type_: types.count(type_) for type_ in dict.fromkeys(types)}


def _by_type(records: Sequence[Record], seed: int) -> dict[str, Any]:
    asked = [*of_role(records, "document"), *of_role(records, "cross")]
    types = dict.fromkeys(record.question.type for record in asked)
    return {type_: _broken_down([r for r in asked if r.question.type == type_], seed) for type_ in types}


def _lengths(documents: Sequence[Document]) -> list[tuple[str, Collection[str]]]:
    """Chats by themselves; of the others those up to `SHORT_WORDS` words, and longer ones."""
    texts = [document for document in documents if document.kind != "chat"]
    groups = [
        ("short", {document.id for document in texts if document.words <= SHORT_WORDS}),
        ("long", {document.id for document in texts if document.words > SHORT_WORDS}),
        ("chat", {document.id for document in documents if document.kind == "chat"}),
    ]
    return [(name, ids) for name, ids in groups if ids]


def _broken_down(records: Sequence[Record], seed: int) -> dict[str, Any]:
    accuracy: dict[str, Any] = {c: mean(records, right_under(c), seed).value for c in _BROKEN_DOWN}
    kept = {f"retention_{c}": retention(records, c, seed).value for c in CONDITIONS[-2:]}
    return {"n": len(records), **accuracy, **kept}


def _document(made: Made, records: Sequence[Record]) -> dict[str, Any]:
    own = of_documents(records, {made.document.id})
    right = {c: sum(record.right(c) or 0.0 for record in own) for c in ("oracle", "full_context", "routed")}
    took = None if made.began is None or made.finished is None else made.finished - made.began
    waited = None if made.began is None or made.submitted is None else made.began - made.submitted
    return {
        "id": made.document.id,
        "title": made.document.title,
        "kind": made.document.kind,
        "words": made.document.words,
        "memory_id": made.memory_id,
        "ready": made.ready,
        "problem": made.problem,
        "questions": len(own),
        **{f"{condition}_right": int(count) for condition, count in right.items()},
        "seconds": took,
        "seconds_waited": waited,
        "seconds_by_phase": dict(made.seconds_by_phase or {}),
        "bytes": made.bytes,
        "losses": [list(point) for point in made.losses],
    }


def _answer(record: Record, judgements: Sequence[Judgement]) -> dict[str, Any]:
    question = record.question
    return {
        "id": question.id,
        "q": question.text,
        "type": question.type,
        "accepted": list(question.answers),
        "documents": list(question.documents),
        "candidates": list(record.candidates),
        "chosen": list(record.chosen),
        "conditions": {
            condition: {"answer": answer, "right": bool(record.right(condition)), "f1": record.f1(condition)}
            for condition, answer in record.answers.items()
        },
        "scores": [
            {
                "document": judgement.pair.document_id,
                "kind": judgement.pair.kind,
                "rank": judgement.pair.rank,
                "score": judgement.score,
                "threshold": judgement.threshold,
            }
            for judgement in judgements
            if judgement.pair.question_id == question.id
        ],
    }
