"""What commands print: people's words on a console, data as JSON on stdout."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH_WITHOUT_TERMINAL = 120
_IDS = ("id", "job", "memory id", "who", "subject")


def console(*, stderr: bool = False) -> Console:
    """A console of a steady width where nobody watches, so that logs and transcripts do not wrap at 80."""
    watched = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if watched else _WIDTH_WITHOUT_TERMINAL, highlight=False)


def print_json(value: Any) -> None:
    """`value` as JSON on stdout, one document, nothing around it."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(*columns: str, title: str | None = None) -> Table:
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        # Ids are copied from here into the next command, so they never break.
        made.add_column(column, overflow="fold", no_wrap=column in _IDS)
    return made


def when(unix: float | None) -> str:
    """A Unix time as local time, without the date if that is today; a dash for none."""
    if unix is None:
        return "–"
    local = datetime.fromtimestamp(unix, UTC).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.0f} %"
