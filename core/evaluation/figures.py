"""The figures of answers and routing, by name, each with its interval; pure. docs/evaluation.md says the same in words.

- `accuracy.<condition>`, `f1.<condition>`: means over the questions that one document answers. A document without a
  memory counts as wrong for `oracle`. Questions of type `cross` are in `by_type` alone.
- `retention.oracle`, `retention.routed`: that accuracy over the accuracy of `full_context`; resampled together.
- `routing.recall_at_1`, `recall_at_k`: the question's own memory is the first candidate, or among the candidates.
  `chosen_right`: the gate activated it; of all questions, abstentions count as wrong.
- `gate.general_loss_points`: points of accuracy that everyday questions lose when the bank is on.
- `gate.false_activation_rate`: the share of questions that no memory answers (near misses and everyday ones) on which
  any memory is activated; `false_activation_near_miss` and `false_activation_general` are its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from core.evaluation.intervals import Figure, Sample, bootstrap
from core.evaluation.records import CONDITIONS, Condition, Record
from core.evaluation.suite import Role

Figures = dict[str, Figure]
"""By dotted name, which is the path of the figure in the JSON."""

Value = Callable[[Record], float | None]


def answer_figures(records: Sequence[Record], seed: int) -> Figures:
    """Accuracy, F1, retention and routing over questions of one document each."""
    asked = of_role(records, "document")
    figures: Figures = {}
    for condition in CONDITIONS:
        figures[f"accuracy.{condition}"] = mean(asked, right_under(condition), seed)
        figures[f"f1.{condition}"] = mean(asked, f1_under(condition), seed)
    for condition in CONDITIONS[-2:]:
        figures[f"retention.{condition}"] = retention(asked, condition, seed)
    figures["routing.recall_at_1"] = mean(asked, lambda r: float(r.candidates[:1] == r.question.documents), seed)
    figures["routing.recall_at_k"] = mean(asked, lambda r: float(set(r.question.documents) <= set(r.candidates)), seed)
    figures["routing.chosen_right"] = mean(asked, lambda r: float(r.chosen[:1] == r.question.documents), seed)
    active = [record for record in asked if record.chosen]
    figures["routing.chosen_right_when_active"] = mean(
        active, lambda r: float(r.chosen[:1] == r.question.documents), seed
    )
    return figures


def restraint_figures(records: Sequence[Record], seed: int) -> Figures:
    """What the bank does to questions that it can't answer."""
    near, general = of_role(records, "near_miss"), of_role(records, "general")
    loss = mean(general, _lost, seed)
    return {
        "gate.false_activation_rate": mean([*near, *general], _activated, seed),
        "gate.false_activation_near_miss": mean(near, _activated, seed),
        "gate.false_activation_general": mean(general, _activated, seed),
        "gate.general_loss_points": loss,
        "general.no_memory": mean(general, right_under("no_memory"), seed),
        "general.routed": mean(general, right_under("routed"), seed),
    }


def mean(records: Sequence[Record], value: Value, seed: int) -> Figure:
    """The mean of `value` over the records that have one."""
    found = np.array([one for one in map(value, records) if one is not None])
    return bootstrap(len(found), lambda sample: float(found[sample].mean()), seed)


def retention(records: Sequence[Record], condition: Condition, seed: int) -> Figure:
    """Accuracy under `condition` over accuracy with the text in the prompt; not defined where the latter is zero."""
    pairs = [(r.right(condition), r.right("full_context")) for r in records]
    kept = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)

    def ratio(sample: Sample) -> float | None:
        right, full = kept[sample].sum(0)
        return float(right / full) if full else None

    return bootstrap(len(kept), ratio, seed)


def of_role(records: Sequence[Record], role: Role) -> list[Record]:
    return [record for record in records if record.question.role == role]


def of_documents(records: Sequence[Record], documents: Collection[str]) -> list[Record]:
    """The questions of one document each that belong to `documents`."""
    return [record for record in of_role(records, "document") if record.question.documents[0] in documents]


def right_under(condition: Condition) -> Value:
    return lambda record: record.right(condition)


def f1_under(condition: Condition) -> Value:
    return lambda record: record.f1(condition)


def _activated(record: Record) -> float:
    return float(bool(record.chosen))


def _lost(record: Record) -> float | None:
    base, routed = record.right("no_memory"), record.right("routed")
    return None if base is None or routed is None else 100 * (base - routed)
