from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from core.cli.children import ChildDied, Children, free_port, marked
from core.cli.stack import Part, Plan, plan_stack, running_stack
from core.cli.stack_file import read_stack_file
from core.errors import Conflict, Unavailable
from core.settings import Settings

ROOT = Path(__file__).parents[3]
SERVING = """
import http.server, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
# A grandchild in a session of its own, as a trainer is.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
DYING = "import sys; print('no database to be found'); sys.exit(3)"
SILENT = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    """Makes a plan of stand-in processes from their sources, by name."""

    def make(**sources: str) -> Plan:
        taken: set[int] = set()
        parts = []
        for name, source in sources.items():
            port = free_port(0, "127.0.0.1", taken)
            (tmp_path / f"stand_in_{name}.py").write_text(source.replace("{port}", str(port)))
            url = f"http://127.0.0.1:{port}"
            parts.append(Part(name, f"stand_in_{name}", f"{url}/ready", f"{url}/metrics"))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return Plan(tmp_path / "data", parts[0].ready_url.removesuffix("/ready"), "admin", tuple(parts), environment)

    return make


def test_a_stack_is_announced_while_it_runs_and_leaves_nobody_behind(plan: Callable[..., Plan]) -> None:
    lines: list[str] = []
    made = plan(gateway=SERVING, worker=SERVING)
    with running_stack(made, lines.append) as children:
        assert len(marked(children.mark)) == 4
        found = read_stack_file(made.data_dir)
        assert found is not None
        assert (found.pid, found.gateway_url) == (os.getpid(), made.gateway_url)
        with pytest.raises(Conflict), running_stack(made, lines.append):
            pass
    assert {line.split()[0] for line in lines} == {"gateway", "worker"}
    assert marked(children.mark) == []
    assert read_stack_file(made.data_dir) is None
    assert (made.data_dir / "logs" / "worker.log").read_text() == "serving\n"


def test_a_process_that_dies_is_named_with_the_end_of_its_log(plan: Callable[..., Plan]) -> None:
    made = plan(gateway=SERVING, worker=DYING)
    with pytest.raises(ChildDied, match="worker ended with exit code 3") as caught, running_stack(made, print):
        pass
    assert caught.value.log_tail == "no database to be found"


def test_a_process_that_is_never_ready_is_named_and_all_are_stopped(plan: Callable[..., Plan]) -> None:
    with (
        pytest.raises(Unavailable, match="Not ready after 1 s: worker"),
        running_stack(plan(gateway=SERVING, worker=SILENT), print, ready_seconds=1),
    ):
        pass


def test_what_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    children = Children(tmp_path)
    children.start("stubborn", [sys.executable, "-c", STUBBORN + "\n"], os.environ)
    children.start("silent", [sys.executable, "-c", SILENT], os.environ)
    _until(lambda: _ignores_sigterm(children.running[0].process.pid))
    assert children.stop(grace_seconds=0.5) == ["stubborn"]
    assert marked(children.mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_way_of_ending_the_cli_leaves_its_processes_behind(
    plan: Callable[..., Plan], tmp_path: Path, number: signal.Signals
) -> None:
    made = plan(gateway=SERVING.replace("subprocess.Popen", "(lambda *_, **__: None)"))
    script = f"""
import time
from pathlib import Path
from core.cli.stack import Part, Plan, running_stack
import os
plan = Plan(Path({str(made.data_dir)!r}), "", "", {made.parts!r}, dict(os.environ))
with running_stack(plan, print) as children:
    print(children.mark, flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    cli = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert cli.stdout is not None
    mark = [cli.stdout.readline().strip() for _ in range(2)][-1]
    assert len(marked(mark)) == 1
    cli.send_signal(number)
    cli.communicate(timeout=30)
    _until(lambda: marked(mark) == [])


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        chosen: set[int] = set()
        first = free_port(taken, "127.0.0.1", chosen)
        assert first != taken
        assert free_port(first, "127.0.0.1", chosen) != first


def test_the_plan_hands_every_process_the_same_keys_and_its_own_port(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    plan = plan_stack(settings, tmp_path, {"LATENTBANK_BROKER_URL": ""})
    again = plan_stack(settings, tmp_path)
    assert plan.admin_key == again.admin_key == plan.environment["LATENTBANK_ADMIN_KEY"]
    assert plan.environment["LATENTBANK_INTERNAL_TOKEN"] == again.environment["LATENTBANK_INTERNAL_TOKEN"]
    assert plan.environment["LATENTBANK_BROKER_URL"] == ""
    assert len({httpx.URL(part.metrics_url).port for part in plan.parts}) == 4
    assert [part.module for part in plan.parts] == [
        "orchestrator",
        "workers.inference",
        "workers.distillation",
        "gateway",
    ]


def _ignores_sigterm(pid: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn")]
    return bool(int(line.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


def _until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)
