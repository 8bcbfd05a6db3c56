"""The figures of the gate, over pairs of question and memory; pure.

- `gate.auroc_near_miss`: own pairs against near misses. `auroc_wrong_adapter`: against memories drawn by the seed.
  `auroc_unrelated`: against other candidates, of the suite's own questions and of everyday ones together.
  `auroc_candidates` and `auroc_general` are its parts.
- `gate.balanced_accuracy`: the mean of two shares: own pairs that pass, and other pairs, of all kinds, that do not.
  `true_activation` and `true_rejection` are those shares.
- `gate.entropy_baseline_auroc`: own pairs against all others, scored by minus the entropy of the adapter's first
  token: the Self-Gating of arXiv:2605.28889.

Pairs of one question are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from core.evaluation.figures import Figures
from core.evaluation.intervals import Figure, Sample, bootstrap
from core.evaluation.judging import auroc
from core.evaluation.pairs import NEGATIVE, PairKind
from core.evaluation.records import Judgement

Value = Callable[[Judgement], float]
Array = NDArray[np.float64]

_NEGATIVES: dict[str, tuple[PairKind, ...]] = {
    "auroc_unrelated": ("unrelated", "general"),
    "auroc_candidates": ("unrelated",),
    "auroc_general": ("general",),
    "auroc_near_miss": ("near_miss",),
    "auroc_wrong_adapter": ("wrong",),
}


def gate_figures(judgements: Sequence[Judgement], seed: int) -> Figures:
    """All of the above by name."""
    figures = {f"gate.{name}": _auroc(judgements, kinds, _score, seed) for name, kinds in _NEGATIVES.items()}
    figures["gate.entropy_baseline_auroc"] = _auroc(judgements, NEGATIVE, lambda j: -j.entropy, seed)
    figures["gate.balanced_accuracy"] = _over_classes(judgements, NEGATIVE, _passes, _balanced, seed)
    figures["gate.true_activation"] = _over_classes(judgements, NEGATIVE, _passes, lambda yes, _: yes.mean(), seed)
    figures["gate.true_rejection"] = _over_classes(judgements, NEGATIVE, _passes, lambda _, no: 1 - no.mean(), seed)
    return figures


def roc(
    judgements: Sequence[Judgement], kinds: Collection[PairKind], value: Value | None = None
) -> tuple[Array, Array]:
    """The curve of own pairs against pairs of `kinds`: shares of false and of true activations, both rising 0 to 1."""
    take = value or _score
    own = np.array([take(j) for j in judgements if j.pair.kind == "own"])
    other = np.array([take(j) for j in judgements if j.pair.kind in kinds])
    cuts = np.unique(np.concatenate([own, other]))[::-1]
    false = np.array([0.0, *((other >= cut).mean() for cut in cuts)])
    true = np.array([0.0, *((own >= cut).mean() for cut in cuts)])
    return false, true


def reliability(judgements: Sequence[Judgement], bins: int = 10) -> list[tuple[float, float, int]]:
    """Mean score, share of own pairs, and number of pairs of each bin of scores that is not empty, from 0 to 1."""
    scores = np.array([j.score for j in judgements])
    own = np.array([j.pair.kind == "own" for j in judgements], dtype=np.float64)
    at = np.minimum((scores * bins).astype(int), bins - 1)
    filled = [at == one for one in range(bins) if (at == one).any()]
    return [(float(scores[here].mean()), float(own[here].mean()), int(here.sum())) for here in filled]


def _auroc(judgements: Sequence[Judgement], kinds: Collection[PairKind], value: Value, seed: int) -> Figure:
    return _over_classes(judgements, kinds, value, auroc, seed)


def _over_classes(
    judgements: Sequence[Judgement],
    kinds: Collection[PairKind],
    value: Value,
    statistic: Callable[[Array, Array], float],
    seed: int,
) -> Figure:
    """`statistic` of the values of own pairs and of pairs of `kinds`; `None` where either is missing."""
    by_question: dict[str, tuple[list[float], list[float]]] = {}
    for judgement in judgements:
        if judgement.pair.kind == "own" or judgement.pair.kind in kinds:
            of_question = by_question.setdefault(judgement.pair.question_id, ([], []))
            of_question[judgement.pair.kind != "own"].append(value(judgement))
    own = [np.array(yes) for yes, _ in by_question.values()]
    other = [np.array(no) for _, no in by_question.values()]

    def of_sample(sample: Sample) -> float | None:
        yes = np.concatenate([own[i] for i in sample])
        no = np.concatenate([other[i] for i in sample])
        return float(statistic(yes, no)) if len(yes) and len(no) else None

    return bootstrap(len(by_question), of_sample, seed)


def _balanced(own: Array, other: Array) -> float:
    return float((own.mean() + 1 - other.mean()) / 2)


def _score(judgement: Judgement) -> float:
    return judgement.score


def _passes(judgement: Judgement) -> float:
    return float(judgement.passes)
