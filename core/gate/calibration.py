"""Fits a memory's gate to a few held-out questions: which signals say that this memory should speak.

The model is a logistic regression, the two classes weighted alike, its weights pulled towards a prior and kept on the
side of zero where their meaning is clear. With ten positives that matters more than the data: a gate must never learn
that a better match speaks against a memory.

The threshold follows a conformal rule on out-of-fold scores (each question is scored by a model that did not see it):
with n negatives, the lowest threshold that at most `rate * (n + 1) - 1` of them reach. New negatives that are
exchangeable with those then reach it with probability at most `rate`. Three limits of that promise, stated in the
report rather than hidden:
- it is about questions like the negatives given, on average over calibrations, and nearly so rather than exactly,
  because the final model differs a little from the out-of-fold ones (cross-conformal, Vovk 2015);
- fewer than `1 / rate - 1` negatives can't support it: the threshold then lies above all of them, `promise_kept` is
  false;
- a threshold that more than a fifth of the held-out positives would fail is lowered until four of five pass (`rule` is
  `capped`, `promise_kept` false), because a memory that stays silent on its own questions is of no use.
Where the positives lie clear above the bound, the threshold moves a third of the way towards them, half of it where the
negatives are too few for the promise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.gate.decision import GateModel
from core.gate.features import FEATURES

Array = NDArray[np.float64]

# Least standard deviation of a feature: what varies less in calibration must not explode in serving. Then the prior
# weight, and the side on which the weight has to stay (0: either).
_SHAPE: dict[str, tuple[float, float, int]] = {
    "dense": (0.05, 0.8, +1),
    "lexical": (0.1, 0.4, +1),
    "entropy_base": (0.3, 0.0, 0),
    "entropy_adapter": (0.3, 0.0, -1),
    "kl_first": (0.3, 0.1, +1),
    "kl": (0.3, 0.4, +1),
    "entropy_draft": (0.2, 0.0, -1),
    "margin": (0.2, 0.0, +1),
    "likelihood_adapter": (0.1, 0.0, +1),
    "likelihood_base": (0.3, 0.0, -1),
    "entropy_drop": (0.3, 0.0, +1),
    "likelihood_gain": (0.3, 0.2, +1),
}
_FLOOR, _PRIOR, _SIDE = (np.array([_SHAPE[name][i] for name in FEATURES], dtype=np.float64) for i in range(3))

PENALTY = 0.05
CLIP = 4.0
MAX_FOLDS = 20
TOWARDS_POSITIVES = 1 / 3
LEAST_TRUE_ACTIVATION = 0.8
"""Share of its own held-out questions that a memory must be allowed to answer, whatever the promise."""


def calibrate(
    positives: Sequence[tuple[float, ...]],
    negatives: Sequence[tuple[float, ...]],
    *,
    promised_false_activation: float = 0.05,
) -> tuple[GateModel, dict[str, Any]]:
    """The gate for features of questions that the memory answers (`positives`) and does not (`negatives`).

    Scores are shifted so that the threshold is always 0.5, which makes them comparable between memories. The same
    questions in the same order give the same gate. Raises `ValueError` where a class is empty, a feature is missing or
    not finite.

    The report holds counts, the promised rate, `rule` (`conformal` or `capped`), `promise_kept`, and of the out-of-fold
    scores `auroc`, `false_activation`, `true_activation`. Those two are of the same scores that set the threshold, so
    `expected_false_activation` adds the conformal correction: the most to expect of new questions like the negatives.
    """
    features, labels = _checked(positives, negatives)
    out_of_fold = _out_of_fold(features, labels)
    yes, no = out_of_fold[labels], out_of_fold[~labels]
    threshold, rule, kept = _threshold(yes, no, promised_false_activation)
    model = _fit(features, labels)
    report = {
        "positives": len(yes),
        "negatives": len(no),
        "auroc": auroc(yes, no),
        "promised_false_activation": promised_false_activation,
        "false_activation": float((no >= threshold).mean()),
        "expected_false_activation": float(((no >= threshold).sum() + 1) / (len(no) + 1)),
        "true_activation": float((yes >= threshold).mean()),
        "rule": rule,
        "promise_kept": kept,
    }
    return replace(model, bias=model.bias - threshold, threshold=0.5), report


def auroc(positives: Sequence[float] | Array, negatives: Sequence[float] | Array) -> float:
    """The chance that a positive scores above a negative, ties counted half."""
    difference = np.subtract.outer(np.asarray(positives), np.asarray(negatives))
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _threshold(yes: Array, no: Array, rate: float) -> tuple[float, str, bool]:
    """The threshold in log-odds, the rule that set it, and whether the promised rate is supported."""
    allowed = math.floor(rate * (len(no) + 1) + 1e-9) - 1
    bound = float(np.nextafter(np.sort(no)[::-1][max(0, allowed)], math.inf))
    cap = float(np.sort(yes)[int((1 - LEAST_TRUE_ACTIVATION) * (len(yes) - 1))])
    if bound > cap:
        return cap, "capped", False
    low = float(np.quantile(yes, 0.1))
    supported = allowed >= 0
    towards = TOWARDS_POSITIVES if supported else 0.5
    return bound + towards * max(0.0, low - bound), "conformal", supported


def _out_of_fold(features: Array, labels: NDArray[np.bool_]) -> Array:
    """Log-odds of each question by a model fitted without its fold; folds hold both classes in equal shares."""
    folds = np.empty(len(labels), dtype=np.int64)
    count = min(MAX_FOLDS, len(labels))
    for label in (True, False):
        members = np.flatnonzero(labels == label)
        folds[members] = np.arange(len(members)) % count
    scores = np.empty(len(labels))
    for fold in range(count):
        held = folds == fold
        if not held.any():
            continue
        # A class of one can't be held out: its score is then that of a model which saw it.
        seen = ~held if labels[~held].any() and (~labels[~held]).any() else np.ones_like(held)
        scores[held] = _log_odds(_fit(features[seen], labels[seen]), features[held])
    return scores


def _fit(features: Array, labels: NDArray[np.bool_]) -> GateModel:
    """Minimises class-balanced log-loss plus `PENALTY / 2 · |weight − prior|²` by accelerated projected gradient."""
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    mean = share @ features
    scale = np.maximum(np.sqrt(share @ (features - mean) ** 2), _FLOOR)
    x = np.hstack([np.clip((features - mean) / scale, -CLIP, CLIP), np.ones((len(features), 1))])
    target = labels.astype(np.float64)
    penalty = np.append(np.full(len(FEATURES), PENALTY), 1e-4)
    prior = np.append(_PRIOR, 0.0)
    step = 1.0 / (0.25 * np.linalg.eigvalsh(x.T @ (share[:, None] * x))[-1] + PENALTY)
    weights = ahead = prior
    for turn in range(1, 2001):
        residual = share * (_sigmoid(x @ ahead) - target)
        moved = _on_side(ahead - step * (x.T @ residual + penalty * (ahead - prior)))
        change = moved - weights
        ahead, weights = moved + (turn - 1) / (turn + 2) * change, moved
        if np.abs(change).max() < 1e-7 and turn > 10:
            break
    return GateModel(tuple(mean.tolist()), tuple(scale.tolist()), tuple(weights[:-1].tolist()), float(weights[-1]), 0.5)


def _on_side(weights: Array) -> Array:
    signed = weights[:-1]
    kept = np.where((_SIDE != 0) & (np.sign(signed) == -_SIDE), 0.0, signed)
    return np.append(kept, weights[-1])


def _log_odds(model: GateModel, features: Array) -> Array:
    """As `GateModel.score`, before the sigmoid, for many questions."""
    x = np.clip((features - np.array(model.mean)) / np.array(model.scale), -CLIP, CLIP)
    odds: Array = x @ np.array(model.weight) + model.bias
    return odds


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))


def _checked(
    positives: Sequence[tuple[float, ...]], negatives: Sequence[tuple[float, ...]]
) -> tuple[Array, NDArray[np.bool_]]:
    if not positives or not negatives:
        raise ValueError("A gate needs at least one question that the memory answers and one that it does not.")
    features = np.array([*positives, *negatives], dtype=np.float64)
    if features.shape[1:] != (len(FEATURES),) or not np.isfinite(features).all():
        raise ValueError(f"Every question needs {len(FEATURES)} finite features: {', '.join(FEATURES)}.")
    return features, np.arange(len(features)) < len(positives)
