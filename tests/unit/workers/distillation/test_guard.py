"""What a new pool process ends of the one before it, in a family of real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAMILY = """
import os, subprocess
from workers.distillation.guard import kill_strangers
stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
akin = subprocess.Popen(["sleep", "600"])
if os.fork() == 0:
    kill_strangers({parent})
    os._exit(0)
while os.wait()[0] in (stranger.pid, akin.pid):
    pass
print("alive" if os.path.exists(f"/proc/{{stranger.pid}}/exe") else "ended", akin.poll())
for process in (stranger, akin):
    process.kill()
"""


@pytest.mark.parametrize(("parent", "told"), [("os.getppid()", "ended None"), ("os.getpid()", "alive None")])
def test_strangers_are_ended_below_ones_own_parent_and_below_nobody_who_took_its_place(parent: str, told: str) -> None:
    family = subprocess.run(
        [sys.executable, "-c", FAMILY.format(parent=parent)], capture_output=True, text=True, timeout=60, check=True
    )
    assert family.stdout.strip() == told
