"""Which cases `make test` plays: it has minutes. `make test-faults` plays all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def cases(values: Iterable[Any], *in_every_run: Any) -> list[Any]:
    """All values as parameters of a test, those that are not named marked as `exhaustive`."""
    return [v if v in in_every_run else pytest.param(v, marks=pytest.mark.exhaustive) for v in values]
