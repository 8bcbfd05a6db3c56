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

ADOPTED = """
import os, subprocess, sys, time
from workers.distillation.guard import adopt_orphans, reap_strangers
adopt_orphans()
between = "import subprocess; print(subprocess.Popen(['sleep', '0.3'], start_new_session=True).pid)"
orphan = int(subprocess.run([sys.executable, "-c", between], capture_output=True, text=True).stdout)
mine = subprocess.Popen(["true"])
for _ in range(200):
    reap_strangers()
    if not os.path.exists(f"/proc/{orphan}"):
        break
    time.sleep(0.05)
print(os.path.exists(f"/proc/{orphan}"), mine.wait())
"""


@pytest.mark.parametrize(("parent", "told"), [("os.getppid()", "ended None"), ("os.getpid()", "alive None")])
def test_strangers_are_ended_below_ones_own_parent_and_below_nobody_who_took_its_place(parent: str, told: str) -> None:
    family = subprocess.run(
        [sys.executable, "-c", FAMILY.format(parent=parent)], capture_output=True, text=True, timeout=60, check=True
    )
    assert family.stdout.strip() == told


def test_the_dead_among_adopted_ones_are_let_go_and_others_are_left_to_whoever_waits_for_them() -> None:
    family = subprocess.run([sys.executable, "-c", ADOPTED], capture_output=True, text=True, timeout=60, check=True)
    assert family.stdout.strip() == "False 0"
