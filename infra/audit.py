"""Known vulnerabilities in what the lock files pin: `python infra/audit.py` (part of `make check`).

Fails for one that is found and not in `IGNORED`. Where the service that knows of them is away, or does not know a
package, it says so and does not fail: work goes on offline, and CI with a network sees the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-nodeps.lock")
IGNORED: dict[str, str] = {}
"""Vulnerability id → the date, why it does not reach us, and when to look again. Upgrade instead where that works."""
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """`found` are lines to read, one for each vulnerability that counts."""

    audited: int
    unknown: tuple[str, ...]
    found: tuple[str, ...]


def main() -> int:
    report = _report()
    if report is None:
        return 0
    outcome = judge(report, IGNORED)
    if outcome.unknown:
        some = ", ".join(outcome.unknown[:5]) + (", …" if len(outcome.unknown) > 5 else "")
        _say(f"audit: NOT AUDITED, unknown to the service: {len(outcome.unknown)} packages ({some})")
    for line in outcome.found:
        _say(f"audit: {line}")
    _say(f"audit: {outcome.audited} packages audited, {len(outcome.found)} known vulnerabilities")
    return 1 if outcome.found else 0


def judge(report: dict[str, Any], ignored: dict[str, str]) -> Outcome:
    """What pip-audit's JSON says."""
    packages = report["dependencies"]
    unknown = tuple(sorted(one["name"] for one in packages if "skip_reason" in one))
    found = [
        f"{one['name']} {one['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in packages
        for flaw in one.get("vulns", ())
        if not {flaw["id"], *flaw.get("aliases", ())} & ignored.keys()
    ]
    return Outcome(len(packages) - len(unknown), unknown, tuple(found))


def _report() -> dict[str, Any] | None:
    """`None`, and a line that says why, where there is none."""
    locks = [part for lock in LOCKS for part in ("--requirement", str(ROOT / lock))]
    options = ("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10")
    cache = ("--cache-dir", str(ROOT / "build" / "pip-audit"))
    command = [sys.executable, "-m", "pip_audit", *options, *cache, *locks]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as problem:
        said = "" if isinstance(problem, subprocess.TimeoutExpired) else done.stderr.strip().splitlines()[-1:]
        _say(f"audit: NOT DONE, the service for vulnerabilities did not answer. {type(problem).__name__} {said}")
        return None
    return report


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
