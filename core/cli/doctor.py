"""`latentbank doctor`: what is there, what is missing, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from core.cli.checks import examine
from core.cli.findings import Finding
from core.cli.output import console, print_json
from core.cli.up import prepare_base
from core.settings import Settings

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "missing": "[red]✗[/]"}


def doctor(
    prepare: Annotated[
        bool, typer.Option("--prepare", help="First prepare the base model, if that is missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as a JSON list.")] = False,
) -> None:
    """Check every dependency and say how to mend what is missing; ends with 1 where something is."""
    settings = Settings()
    if prepare:
        prepare_base(settings, console(stderr=as_json))
    findings = examine(settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _show(finding)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    out = console()
    out.print(f"{_MARKS[finding.state]} {finding.subject}: {escape(finding.detail)}")
    if finding.mend:
        out.print(f"    → {escape(finding.mend)}")
