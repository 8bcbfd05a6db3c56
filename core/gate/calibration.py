"""Fits the gate of a bank to the samples that its memories carry: one model for all of them, gate and router in one.

1. A logistic regression over all samples (`core.gate.logistic`).
2. Out-of-fold scores: each question is scored by a model that did not see its memory, or, where there is only one
   memory, did not see the question.
3. Isotonic steps on those scores, so that a score is a probability: that the memory answers the question, where
   questions that it answers and questions that it does not come equally often.
4. The threshold by conformal risk control (Angelopoulos et al., arXiv 2208.02814): the lowest for which
   `(n · risk + 1) / (n + 1) ≤ rate`, the risk being the share of the n far negatives (unrelated questions and other
   memories') that reach it. A new one that is exchangeable with those then reaches it with probability at most `rate`.
   That is the lowest threshold; from there it rises to where own questions and near misses are told apart best
   (Youden's J, near misses weighing less the more a tenant allows), which only makes false activation rarer. Without
   near misses it moves towards own questions that lie clear above.
5. Between the two lies the zone of doubt: what reaches the conformal bound is hardly unrelated, by the same promise,
   but may be a near miss.

What the promise does not cover: near misses, for which there is no rate (a threshold that stopped nearly all of them
would stop half of the own questions too; docs/results.md says how many pass); questions of other kinds or in another
mixture than the negatives; several candidates at once (it is per candidate). It
holds on average over calibrations, and nearly rather than exactly, because the final model differs a little from those
out of fold (cross-conformal, Vovk 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.gate.decision import GateModel
from core.gate.features import FEATURES
from core.gate.isotonic import Knots, knots
from core.gate.logistic import Logistic, fit_logistic
from core.gate.prior import PRIOR
from core.gate.reliability import Bin, auroc, bins
from core.gate.samples import KINDS, NEGATIVE_KINDS, Sample

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rule = Literal["conformal", "above_all", "prior"]

MEMORY_FOLDS = 5
QUESTION_FOLDS = 20
LEAST_OWN = 20
LEAST_NEGATIVES = 8
"""With fewer samples than these the prior model judges: it knows more of gates than they do."""
LEAST_TRUE_ACTIVATION = 0.5
"""A threshold above all of too few negatives, and above half of the memories' own questions, is no threshold."""
TOWARDS_OWN = 1 / 2
USUAL_RATE = 0.05
LEAST_KEPT = 0.9
"""Share of the own questions above the conformal bound that have to stay above the threshold."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a calibration rests on and what may be expected of it; all measured out of fold.

    `rule` is how the threshold was found: `conformal`; `above_all` of the negatives, where they are too few for the
    promise; `prior` where the built-in model judges, since nothing better could be fitted. `expected_rate` is the most
    false activation to expect of new questions like the far negatives, the conformal correction included. `auroc` is
    own questions against each kind; what can't be measured is absent there, and `None` elsewhere.
    """

    memories: int
    counts: dict[str, int]
    rule: Rule
    threshold: float
    promised_rate: float
    promise_supported: bool
    expected_rate: float | None
    false_activation: dict[str, float]
    true_activation: float | None
    auroc: dict[str, float]
    reliability: tuple[Bin, ...]


def fit(memories: Sequence[Sequence[Sample]], rate: float) -> tuple[GateModel, Report]:
    """The gate of a bank for the promised `rate` of false activation, from the samples of each of its memories.

    The same samples in the same order give the same gate. Raises `ValueError` where `rate` is not between 0 and 1, or
    a sample lacks a feature.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError("A promised rate is above 0 and below 1.")
    pool = _pool(memories)
    own = int(pool.labels.sum())
    if own < LEAST_OWN or len(pool.labels) - own < LEAST_NEGATIVES:
        return PRIOR, _report(pool, len(memories), PRIOR, rate, "prior", None)
    model = fit_logistic(pool.features, pool.labels, pool.share)
    scores = _out_of_fold(pool, model)
    bound, rule = _bound(scores[_promised(pool)], rate)
    cut = _above(bound, scores[pool.labels], scores[pool.kinds == KINDS.index("near_miss")], rate)
    if rule == "above_all" and (scores[pool.labels] >= cut).mean() < LEAST_TRUE_ACTIVATION:
        return PRIOR, _report(pool, len(memories), PRIOR, rate, "prior", None)
    gate = _gate(model, knots(scores, pool.labels, pool.share))
    gate = replace(gate, threshold=gate.calibrated(cut), doubt_from=gate.calibrated(bound))
    return gate, _report(pool, len(memories), gate, rate, rule, (scores, cut))


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """All samples: features `[n, features]`; of each its label, kind, fold, and what it counts (`[n]`)."""

    features: Array
    labels: Flags
    kinds: NDArray[np.int64]
    folds: NDArray[np.int64]
    share: Array


def _pool(memories: Sequence[Sequence[Sample]]) -> _Pool:
    rows = [sample.features for samples in memories for sample in samples]
    features = np.array(rows, dtype=np.float64) if rows else np.empty((0, len(FEATURES)))
    if features.shape[1:] != (len(FEATURES),) or not np.isfinite(features).all():
        raise ValueError(f"Every sample needs {len(FEATURES)} finite features: {', '.join(FEATURES)}.")
    kinds = np.array([KINDS.index(sample.kind) for samples in memories for sample in samples], dtype=np.int64)
    sizes = [len(samples) for samples in memories]
    owner = np.repeat(np.arange(len(memories)), sizes)
    labels = kinds == 0
    return _Pool(features, labels, kinds, _folds(labels, owner), _share(kinds, owner))


def _folds(labels: Flags, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """By memory where there are several, else by question, each class in equal shares."""
    several = np.unique(owner)
    if len(several) > 1:
        return np.searchsorted(several, owner) % MEMORY_FOLDS
    folds = np.empty(len(labels), dtype=np.int64)
    for label in (True, False):
        members = np.flatnonzero(labels == label)
        folds[members] = np.arange(len(members)) % QUESTION_FOLDS
    return folds


def _share(kinds: NDArray[np.int64], owner: NDArray[np.int64]) -> Array:
    """What each sample counts: the two classes alike, within the negatives each kind, within a kind each memory."""
    share = np.zeros(len(kinds))
    negative_kinds = max(1, len(set(kinds.tolist()) - {0}))
    for kind in set(kinds.tolist()):
        of_kind = kinds == kind
        per_memory = np.bincount(owner[of_kind])
        share[of_kind] = 1.0 / (per_memory[owner[of_kind]] * (per_memory > 0).sum())
        share[of_kind] *= 0.5 if kind == 0 else 0.5 / negative_kinds
    return share


def _out_of_fold(pool: _Pool, model: Logistic) -> Array:
    """Log-odds `[n]` of each sample by a model fitted without its fold, beginning where `model` ended."""
    scores = model.log_odds(pool.features)
    for fold in np.unique(pool.folds):
        held = pool.folds == fold
        left = pool.labels[~held]
        if left.any() and not left.all():
            seen = fit_logistic(pool.features[~held], left, pool.share[~held], model)
            scores[held] = seen.log_odds(pool.features[held])
    return scores


def _promised(pool: _Pool) -> Flags:
    """The negatives that the promise is about: those that are no near misses, or all where there are no others."""
    near = pool.kinds == KINDS.index("near_miss")
    far: Flags = ~pool.labels & ~near
    return far if far.any() else ~pool.labels


def _bound(negatives: Array, rate: float) -> tuple[float, Literal["conformal", "above_all"]]:
    """The lowest threshold in log-odds: so many negatives may reach it, and the next one just does not."""
    allowed = math.floor(rate * (len(negatives) + 1) + 1e-9) - 1
    rule: Literal["conformal", "above_all"] = "conformal" if allowed >= 0 else "above_all"
    return float(np.nextafter(np.sort(negatives)[::-1][max(0, allowed)], math.inf)), rule


def _above(bound: float, own: Array, near: Array, rate: float) -> float:
    """The threshold, `bound` or above it, that keeps own questions and near misses apart best.

    A near miss weighs as much as an own question up to `USUAL_RATE`, and less for who allows more.
    """
    if len(near) < LEAST_NEGATIVES:
        return bound + TOWARDS_OWN * max(0.0, float(np.quantile(own, 0.1)) - bound)
    cuts = np.array([bound, *np.unique(own[own > bound])])
    passing = (own[None, :] >= cuts[:, None]).mean(1)
    apart = passing - min(1.0, USUAL_RATE / rate) * (near[None, :] >= cuts[:, None]).mean(1)
    # Own questions come first: no threshold may silence more than a tenth of those that reach the bound.
    apart[passing < LEAST_KEPT * passing[0]] = -1.0
    best = int(apart.argmax())
    # Halfway down to the next own question, or to the bound: scores of new questions scatter.
    return float(cuts[best] + cuts[max(0, best - 1)]) / 2


def _gate(model: Logistic, steps: Knots) -> GateModel:
    mean, scale, weight = (tuple(values.tolist()) for values in (model.mean, model.scale, model.weight))
    return GateModel(mean, scale, weight, model.bias, 0.5, steps)


def _report(
    pool: _Pool, memories: int, gate: GateModel, rate: float, rule: Rule, measured: tuple[Array, float] | None
) -> Report:
    if measured is None:
        # The prior was fitted to none of these samples, so all of them are out of its fold.
        scores = np.array([gate.score(row) for row in pool.features.tolist()])
        reached, calibrated = scores >= gate.threshold, scores
    else:
        scores, cut = measured
        reached, calibrated = scores >= cut, _calibrated(scores, pool)
    negatives = _promised(pool)
    by_kind = {KINDS[kind]: pool.kinds == kind for kind in range(len(KINDS))}
    present = [kind for kind in NEGATIVE_KINDS if by_kind[kind].any()]
    return Report(
        memories=memories,
        counts={kind: int(members.sum()) for kind, members in by_kind.items()},
        rule=rule,
        threshold=gate.threshold,
        promised_rate=rate,
        promise_supported=rule == "conformal",
        expected_rate=float((reached[negatives].sum() + 1) / (negatives.sum() + 1)),
        false_activation={kind: float(reached[by_kind[kind]].mean()) for kind in present},
        true_activation=float(reached[pool.labels].mean()) if pool.labels.any() else None,
        auroc={kind: auroc(scores[pool.labels], scores[by_kind[kind]]) for kind in present if pool.labels.any()},
        reliability=bins(calibrated, pool.labels, pool.share),
    )


def _calibrated(scores: Array, pool: _Pool) -> Array:
    """Probabilities `[n]` by steps that were fitted to the other half of the folds, so that they can be checked."""
    result = np.empty(len(scores))
    odd = pool.folds % 2 == 1
    for half in (odd, ~odd):
        other = ~half if (~half).any() else half
        x, y = np.array(knots(scores[other], pool.labels[other], pool.share[other])).T
        result[half] = np.interp(scores[half], x, y)
    return result
