from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from core.evaluation.losses import losses_of, read_losses
from core.settings import Settings
from core.truth.records import JobEvent


def event(**data: Any) -> JobEvent:
    return JobEvent(1, "job_a", datetime.now(UTC), "info", "progress", "step", data)


def test_a_curve_is_made_of_the_events_that_tell_a_loss() -> None:
    events = [event(), event(step=10, loss=0.5), event(step=5, loss=2), event(step=10, loss=0.4), event(step=12)]
    assert losses_of(events) == ((5, 2.0), (10, 0.4))


def test_the_manifests_own_curve_comes_first() -> None:
    assert read_losses(Settings(), "tenant_a", "job_a", {"losses": [2.0, 1]}) == ((1, 2.0), (2, 1.0))
