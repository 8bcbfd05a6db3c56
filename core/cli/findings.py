"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at one thing; `mend` says what to do and is empty where nothing is to be done."""

    subject: str
    state: State
    detail: str
    mend: str = ""
