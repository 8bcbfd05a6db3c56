"""`latentbank jobs`: what is being distilled, and what came of it."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from core.cli.client import Api, Json, open_api
from core.cli.output import console, percent, print_json, table, when
from core.cli.progress import ENDED, step, why
from core.settings import Settings

_WATCH_SECONDS = 1.0


def jobs(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing them until all have ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as a JSON list.")] = False,
) -> None:
    """List the jobs, newest first."""
    with open_api(Settings()) as api:
        if watch and not as_json:
            _watch(api)
            return
        found = api.jobs()
    if as_json:
        print_json(found)
    else:
        console().print(_table(found) if found else "No jobs yet.")


def _watch(api: Api) -> None:
    out = console()
    try:
        with Live(console=out, refresh_per_second=4) as live:
            while True:
                found = api.jobs()
                live.update(_table(found))
                if all(job["status"] in ENDED for job in found):
                    return
                time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        return


def _table(found: list[Json]) -> Table:
    shown = table("job", "memory id", "state", "progress", "tries", "made", "ends")
    for job in found:
        ended = job["status"] in ENDED
        state = (
            step(job) if job["status"] in ("queued", "running", "succeeded") else f"{job['status']}: {escape(why(job))}"
        )
        shown.add_row(
            job["id"],
            job["memory_id"],
            state,
            percent(1.0 if job["status"] == "succeeded" else job.get("progress")),
            str(job.get("attempts", "–")),
            when(job.get("created_at")),
            when(job.get("finished_at") if ended else job.get("estimated_finish")),
        )
    return shown
