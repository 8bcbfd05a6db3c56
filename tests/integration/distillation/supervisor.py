"""`python -m tests.integration.distillation.supervisor PIDS`: the real supervisor, with a fake trainer as its group."""

from __future__ import annotations

import sys
from pathlib import Path

from core.base_model.description import directory_of
from core.logs import configure_logs
from core.settings import Settings
from tests.fixtures.fake_trainer import fake_command
from workers.distillation.__main__ import supervise


def main() -> int:
    settings, pids = Settings(), Path(sys.argv[1])
    configure_logs("distillation", settings)
    base = directory_of(settings.base_model, settings.base_dir)
    return supervise(settings, lambda _settings, inbox, _environment: fake_command(inbox, pids, base))


if __name__ == "__main__":
    sys.exit(main())
