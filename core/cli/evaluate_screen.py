"""How an evaluation looks while it runs and at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from core.cli.output import table
from core.evaluation.records import CONDITIONS

_SHOWN = (
    ("retention", ("oracle", "routed")),
    ("gate", ("auroc_unrelated", "auroc_near_miss", "auroc_wrong_adapter", "false_activation_rate")),
    ("gate", ("balanced_accuracy", "general_loss_points", "entropy_baseline_auroc")),
    ("routing", ("recall_at_1", "recall_at_k", "chosen_right")),
    ("latency", ("routed_ttft_ms", "rag_ttft_ms", "served_agreement")),
)


@contextmanager
def progress_bars(out: Console) -> Iterator[Steps]:
    """A bar for each thing that is being done on a terminal; a line for each quarter of it elsewhere."""
    bars = Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out,
    )
    if not out.is_terminal:
        yield Steps(out, None)
        return
    with bars:
        yield Steps(out, bars)


class Steps:
    """Called with what is being done, how much of it is done, and how much there is."""

    def __init__(self, out: Console, bars: Progress | None) -> None:
        self._out = out
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        quarter = 4 * done // total if total else 4
        if self._quarters.get(what) != quarter:
            self._quarters[what] = quarter
            self._out.print(f"  {what}: {done} of {total}", markup=False)


def show(out: Console, results: Mapping[str, Any]) -> None:
    """Accuracy of each condition and the figures that have a goal, with their intervals."""
    shown = table("figure", "value", "95 % interval", "questions")
    for section, names in (("accuracy", CONDITIONS), *_SHOWN):
        for name in names:
            figure = results["intervals"].get(section, {}).get(name)
            if figure is None or figure["value"] is None:
                continue
            low, high = figure["interval"] or (None, None)
            spread = "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            shown.add_row(f"{section}.{name}", f"{figure['value']:.3f}", spread, str(figure["n"]))
    for name in ("seconds_per_memory", "bytes_per_memory", "peak_rss_bytes", "failed"):
        value = results["cost"][name]
        shown.add_row(f"cost.{name}", "–" if value is None else f"{value:,.0f}", "", "")
    out.print()
    out.print(shown)
