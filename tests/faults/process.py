"""`python -m tests.faults.process PART ORDERS PIDS`: a real process of the stack, that meets faults at named points.

A distillation worker gets the fake trainer as its group, unless the environment asks for the real one.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from tests.faults.points import Orders, install

TRAINER = "FAULTS_TRAINER"
BROKER_OPTIONS = "FAULTS_VISIBILITY_TIMEOUT"
"""Seconds after which Redis hands an unacknowledged doorbell out again."""


def main(part: str, orders: str, pids: str) -> int:
    if part == "inference":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if BROKER_OPTIONS in os.environ:
        _shorten_visibility(float(os.environ[BROKER_OPTIONS]))
    install(part, Orders(Path(orders)))
    if part == "distillation" and os.environ.get(TRAINER) != "real":
        return _distillation(Path(pids))
    module = {"inference": "workers.inference.process", "distillation": "workers.distillation.__main__"}
    run: Any = importlib.import_module(module.get(part, f"{part}.__main__")).main
    return int(run())


def _distillation(pids: Path) -> int:
    from core.base_model.description import directory_of
    from core.logs import configure_logs
    from core.settings import Settings
    from tests.fixtures.fake_trainer import fake_command
    from workers.distillation.__main__ import supervise

    settings = Settings()
    configure_logs("distillation", settings)
    base = directory_of(settings.base_model, settings.base_dir)
    return supervise(settings, lambda _settings, inbox, _environment: fake_command(inbox, pids, base))


def _shorten_visibility(seconds: float) -> None:
    import core.jobs.doorbells as doorbells

    options = doorbells._transport_options

    def shortened(broker_url: str, data_dir: Path) -> dict[str, Any]:
        restored = {"visibility_timeout": seconds, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        return options(broker_url, data_dir) | (restored if broker_url.startswith("redis") else {})

    doorbells._transport_options = shortened


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
