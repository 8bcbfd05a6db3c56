"""`latentbank export`: all of the tenant's data in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from core.cli.client import open_api
from core.cli.output import console, print_json
from core.errors import Conflict
from core.export import check_export
from core.settings import Settings


def export(
    file: Annotated[Path, typer.Argument(help="The tar to write; it must not be there yet.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what it holds as JSON.")] = False,
) -> None:
    """Write settings, memories, contexts, adapters, jobs and the audit log to a tar. Its contexts are not encrypted.

    The file appears when it is whole and checked. Each `memories/<id>/context.json` in it can be remembered again.
    """
    if file.exists():
        raise Conflict(f"{file} is there already; name another file.")
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with open_api(Settings()) as api, Progress(*columns, console=console(stderr=True), transient=True) as shown:
            task = shown.add_task("exporting", total=None)
            api.export(partial, lambda done: shown.update(task, completed=done))
        complete = check_export(partial)
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    if as_json:
        print_json(complete)
        return
    out = console()
    out.print(f"{file}: {complete['memories']} memories in {complete['files']} files", markup=False)
    for lacking in complete["lacking"]:
        out.print(f"lacking: {lacking['file']} ({lacking['code']})", markup=False)
