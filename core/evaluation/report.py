"""The Markdown report of an evaluation, from its JSON; pure but for the last step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.evaluation.plots import draw_plots
from core.evaluation.records import CONDITIONS, Judgement, Made

Fields = Mapping[str, Any]


def write_report(path: Path, results: Fields, judgements: Sequence[Judgement], made: Sequence[Made]) -> None:
    """Writes the report to `path` and its plots beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plots = draw_plots(path.parent, path.stem, results, judgements, made)
    path.write_text(report_of(results, plots), encoding="utf-8")


def report_of(results: Fields, plots: Iterable[tuple[str, str]] = ()) -> str:
    """The report as Markdown; `plots` are titles and file names."""
    parts = [
        _head(results),
        *(f"![{title}]({file})" for title, file in plots),
        _accuracy(results),
        _figures("Retention", results, "retention"),
        _figures("Gate", results, "gate"),
        _figures("Routing", results, "routing"),
        _figures("Everyday questions", results, "general"),
        _breakdown("By type of question", results["by_type"]),
        _breakdown("By length of document", results["by_length"]),
        _cost(results),
        _figures("Latency", results, "latency"),
        _documents(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Fields) -> str:
    suite, versions = results["suite"], results["versions"]
    asked = ", ".join(f"{count} {type_}" for type_, count in suite["questions"].items())
    failed = results["cost"]["failed"]
    lines = [
        f"# Evaluation of {suite['name']}",
        f"{suite['documents']} documents, questions: {asked}. Seed {results['seed']}. Intervals: 95 %, percentile "
        "bootstrap over questions. What each figure means: docs/evaluation.md.",
        *([f"**Memories that failed: {failed}**; their questions count as wrong."] if failed else []),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n\n".join(lines)


def _accuracy(results: Fields) -> str:
    rows = [
        (condition, _cell(results["intervals"]["accuracy"][condition]), _cell(results["intervals"]["f1"][condition]))
        for condition in CONDITIONS
    ]
    return _section("Answers", ("condition", "accuracy", "F1"), rows)


def _figures(title: str, results: Fields, section: str) -> str:
    rows = [(name, _cell(figure), figure["n"]) for name, figure in results["intervals"].get(section, {}).items()]
    return _section(title, ("figure", "value", "questions"), rows)


def _breakdown(title: str, groups: Mapping[str, Fields]) -> str:
    if not groups:
        return ""
    columns = list(next(iter(groups.values())))
    rows = [(name, *(_number(group[column]) for column in columns)) for name, group in groups.items()]
    return _section(title, ("", *columns), rows)


def _cost(results: Fields) -> str:
    cost = dict(results["cost"])
    phases = cost.pop("seconds_by_phase")
    rows = [*cost.items(), *((f"seconds of {phase}", seconds) for phase, seconds in phases.items())]
    return _section("Cost", ("what", "value"), [(name, _number(value)) for name, value in rows])


def _documents(results: Fields) -> str:
    rows = [
        (
            one["id"],
            one["title"],
            one["words"],
            *(
                f"{one[f'{condition}_right']} / {one['questions']}"
                for condition in ("full_context", "oracle", "routed")
            ),
            _number(one["seconds"]),
            _number(one["bytes"]),
            one["problem"] or "",
        )
        for one in results["documents"]
    ]
    columns = ("document", "title", "words", "full context", "oracle", "routed", "seconds", "bytes", "problem")
    return _section("Documents", columns, rows)


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    body = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if not body:
        return ""
    lines = [list(columns), ["---"] * len(columns), *body]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(figure: Fields) -> str:
    if figure["value"] is None:
        return "–"
    interval = figure["interval"]
    spread = f" ({_number(interval[0])} to {_number(interval[1])})" if interval else ""
    return _number(figure["value"]) + spread


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
