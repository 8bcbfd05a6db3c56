"""`python -m tests.benchmarks.jobs_worker TEMPLATE`: the real supervisor, with the obedient trainer as its group."""

from __future__ import annotations

import sys
from pathlib import Path

from core.logs import configure_logs
from core.settings import Settings
from workers.distillation.__main__ import supervise


def main() -> int:
    settings, template = Settings(), Path(sys.argv[1])
    configure_logs("distillation", settings)
    trainer = [sys.executable, "-m", "tests.benchmarks.obedient_trainer", str(template), "--inbox"]
    return supervise(settings, lambda _settings, inbox, _environment: [*trainer, str(inbox)])


if __name__ == "__main__":
    sys.exit(main())
