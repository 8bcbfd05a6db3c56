"""How every process begins: its settings, its logs, a look at what it needs, and then its work."""

from __future__ import annotations

import sys
from collections.abc import Callable

from core.configuration import Process, read_settings
from core.errors import LatentBankError, SetupError
from core.logs import configure_logs, get_logger
from core.preflight import refuse
from core.settings import Settings

REFUSED = 2
"""The exit code of a start that can't come to anything before somebody has mended what one line on stderr names.
Supervisors need not try again: systemd's `RestartPreventExitStatus=2`. 1: what it needs was away, or it failed."""


def run_process(process: Process, work: Callable[[Settings], int]) -> int:
    """The exit code. `work` has settings that hold, a writable data directory and tables that it can work with."""
    try:
        settings = read_settings()
        configure_logs(process, settings)
        refuse(settings, process)
        return work(settings)
    except SetupError as problem:
        _say(process, problem)
        return REFUSED
    except LatentBankError as problem:
        _say(process, problem)
        return 1
    except Exception:  # noqa: BLE001 - the process's boundary: nobody else writes down why it ended
        get_logger(__name__).exception("the process failed")
        return 1


def _say(process: Process, problem: LatentBankError) -> None:
    """One line, whatever the logs look like."""
    sys.stderr.write(f"latentbank {process} can't start: {' '.join(problem.message.split())}\n")
    sys.stderr.flush()
