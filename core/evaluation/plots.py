"""The plots of an evaluation as PNG files; drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from core.evaluation.gate_figures import reliability, roc
from core.evaluation.pairs import NEGATIVE, PairKind
from core.evaluation.records import CONDITIONS, Judgement, Made

_CURVES: Mapping[str, tuple[PairKind, ...]] = {
    "everyday and other candidates": ("unrelated", "general"),
    "near misses": ("near_miss",),
    "wrong memories": ("wrong",),
}


def draw_plots(
    directory: Path, stem: str, results: Mapping[str, Any], judgements: Sequence[Judgement], made: Sequence[Made]
) -> list[tuple[str, str]]:
    """Writes what there is something to draw of; titles and file names, in the order of the report."""
    drawn: list[tuple[str, str]] = []

    def save(name: str, title: str, figure: Figure) -> None:
        file = f"{stem}-{name}.png"
        FigureCanvasAgg(figure).print_png(directory / file)
        drawn.append((title, file))

    save("accuracy", "Accuracy", _accuracy(results))
    if any(j.pair.kind == "own" for j in judgements) and any(j.pair.kind in NEGATIVE for j in judgements):
        save("gate-roc", "Gate: true against false activation", _roc(judgements))
        save("gate-reliability", "Gate: reliability", _reliability(judgements))
    if any(one.losses for one in made):
        save("losses", "Training loss", _losses(made))
    return drawn


def _accuracy(results: Mapping[str, Any]) -> Figure:
    figure, axes = _axes("share of questions right", "")
    known = [(c, results["intervals"]["accuracy"][c]) for c in CONDITIONS]
    shown = [(c, one) for c, one in known if one["value"] is not None]
    for at, (_, one) in enumerate(shown):
        low, high = one["interval"] or (one["value"], one["value"])
        below, above = max(0.0, one["value"] - low), max(0.0, high - one["value"])
        axes.bar(at, one["value"], color="tab:blue", yerr=[[below], [above]], capsize=4)
    axes.set_xticks(range(len(shown)), [c.replace("_", "\n") for c, _ in shown])
    axes.set_ylim(0, 1)
    return figure


def _roc(judgements: Sequence[Judgement]) -> Figure:
    figure, axes = _axes("own questions activated", "other questions activated")
    for label, kinds in _CURVES.items():
        if any(j.pair.kind in kinds for j in judgements):
            axes.step(*roc(judgements, kinds), where="post", label=label)
    axes.step(
        *roc(judgements, NEGATIVE, lambda j: -j.entropy), where="post", label="all, by first-token entropy", ls=":"
    )
    axes.plot([0, 1], [0, 1], color="grey", lw=0.5)
    axes.legend(loc="lower right", fontsize="small")
    return figure


def _reliability(judgements: Sequence[Judgement]) -> Figure:
    figure, axes = _axes("share of own pairs", "gate's score")
    points = reliability(judgements)
    axes.plot([0, 1], [0, 1], color="grey", lw=0.5)
    axes.plot([score for score, _, _ in points], [own for _, own, _ in points], marker="o")
    for score, own, count in points:
        axes.annotate(str(count), (score, own), textcoords="offset points", xytext=(4, 4), fontsize="x-small")
    return figure


def _losses(made: Sequence[Made]) -> Figure:
    figure, axes = _axes("nats per answer token", "step")
    for one in made:
        if one.losses:
            axes.plot(*zip(*one.losses, strict=True), label=one.document.id, lw=1)
    axes.set_yscale("log")
    axes.legend(fontsize="xx-small", ncols=2)
    return figure


def _axes(vertical: str, horizontal: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylabel(vertical)
    axes.set_xlabel(horizontal)
    return figure, axes
