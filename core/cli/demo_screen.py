"""How the demo looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.cli.demo_plan import Kind
from core.cli.demo_report import Answered, DemoReport, MadeMemory
from core.cli.output import size, table

_HEADINGS: Mapping[Kind, str] = {
    "memory": "Questions that a memory of the tenant answers",
    "foreign": "Questions about the other tenant's memory: none of it may be served",
    "everyday": "Everyday questions: the gate should abstain",
}


def show_memories(out: Console, memories: Sequence[MadeMemory]) -> None:
    shown = table("tenant", "memory", "id", "seconds", "adapter")
    for memory in memories:
        seconds, bytes_ = f"{memory.seconds:.0f}", size(memory.bytes)
        shown.add_row(memory.tenant, escape(memory.title), memory.id, seconds, bytes_)
    out.print()
    out.print(shown)


def show_heading(out: Console, kind: Kind) -> None:
    out.print(f"\n[bold]{_HEADINGS[kind]}[/]")


def show_answer(out: Console, answered: Answered, titles: Mapping[str, str]) -> None:
    """The question, who served it with which score, and beside each other the answer and the base model's."""
    score = "–" if answered.score is None else f"{answered.score:.2f}"
    served = titles.get(answered.served_by or "", answered.served_by or "no memory")
    out.print(f"\n{_mark(answered)} [dim]{answered.tenant}[/]  [bold]{escape(answered.question)}[/]")
    beside = Table(box=None, show_header=False, expand=True, padding=(0, 2, 0, 0))
    beside.add_column(ratio=1, overflow="fold")
    beside.add_column(ratio=1, overflow="fold")
    beside.add_row(f"  [cyan]{escape(served)}[/], gate {score}:", "  [dim]base model without memory:[/]")
    beside.add_row(
        "  " + escape(_one_line(answered.answer)), "  [dim]" + escape(_one_line(answered.base_answer)) + "[/]"
    )
    out.print(beside)


def show_summary(out: Console, report: DemoReport) -> None:
    out.print("\n[bold]Summary[/]")
    install = "" if report.install_seconds is None else f", installation {report.install_seconds:.0f} s before it"
    out.print(f"  {sum(memory.ready for memory in report.memories)} of {len(report.memories)} memories distilled")
    out.print(f"  {report.right} of {report.asked} memory questions answered right")
    out.print(f"  {report.leaks} leaks between tenants")
    out.print(f"  {report.abstained} of {report.everyday} everyday questions left to the base model")
    out.print(f"  {report.run_seconds:.0f} s{install}")
    for fault in report.faults:
        out.print(f"  [red]✗ {escape(fault)}[/]")
    if not report.faults:
        out.print("  [green]✓ all as it should be[/]")


def _mark(answered: Answered) -> str:
    fine = {
        "memory": answered.right,
        "foreign": not answered.leaked,
        "everyday": answered.served_by is None,
    }[answered.kind]
    return "[green]✓[/]" if fine else "[red]✗[/]"


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"
