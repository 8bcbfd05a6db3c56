"""Watches jobs until they end: bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from core.cli.client import Api, Json
from core.cli.output import percent

ENDED = frozenset({"succeeded", "failed", "rejected", "cancelled"})
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Watched:
    """A job, how to call it, and the API of the tenant that owns it."""

    api: Api
    job_id: str
    label: str


def watch_jobs(
    jobs: Sequence[Watched],
    out: Console,
    *,
    timeout_seconds: float | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> list[Json]:
    """The jobs as they ended, in the order given; a job still unfinished after `timeout_seconds` as it is then.

    `meanwhile` is called at each turn and may raise to end the watch.
    """
    started = time.monotonic()
    seen: dict[str, Json] = {}
    shown = _Bars(jobs, out) if out.is_terminal else _Lines(jobs, out)
    with shown:
        while True:
            if meanwhile is not None:
                meanwhile()
            for job in jobs:
                if job.job_id not in seen or seen[job.job_id]["status"] not in ENDED:
                    seen[job.job_id] = job.api.job(job.job_id)
                    shown.update(job, seen[job.job_id], time.monotonic() - started)
            if all(job["status"] in ENDED for job in seen.values()):
                break
            if timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
                break
            time.sleep(_POLL_SECONDS)
    return [seen[job.job_id] for job in jobs]


def step(job: Json) -> str:
    """What the job is doing: its phase while it runs, else its state."""
    phase = job.get("phase")
    return str(phase).replace("_", " ") if job["status"] == "running" and phase else str(job["status"])


def why(job: Json) -> str:
    """Why the job ended as it did, in a few words."""
    error = job.get("error") or {}
    return str(error.get("message") or job.get("reason") or job["status"])


class _Bars:
    def __init__(self, jobs: Sequence[Watched], out: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}"),
            console=out,
        )
        self._tasks: dict[str, TaskID] = {
            job.job_id: self._progress.add_task(escape(job.label), total=1.0, step="queued") for job in jobs
        }

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, watched: Watched, job: Json, _seconds: float) -> None:
        done = 1.0 if job["status"] == "succeeded" else float(job.get("progress") or 0.0)
        self._progress.update(self._tasks[watched.job_id], completed=done, step=step(job))
        if job["status"] in ENDED:
            self._progress.stop_task(self._tasks[watched.job_id])


class _Lines:
    def __init__(self, _jobs: Sequence[Watched], out: Console) -> None:
        self._out = out
        self._last: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, watched: Watched, job: Json, seconds: float) -> None:
        tenth = int(10 * float(job.get("progress") or 0.0))
        if self._last.get(watched.job_id) != (step(job), tenth):
            self._last[watched.job_id] = (step(job), tenth)
            done = percent(1.0 if job["status"] == "succeeded" else job.get("progress"))
            self._out.print(f"  {seconds:5.0f} s  {watched.label}: {step(job)}, {done}", markup=False)
