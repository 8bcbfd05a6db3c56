"""What every benchmark does with its lines and its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def tell(line: str) -> None:
    """Progress, on standard error; standard output stays free."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """As JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
