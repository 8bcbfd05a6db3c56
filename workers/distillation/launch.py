"""How a process group is started: DeepSpeed's launcher with a port of its own."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from core.errors import SetupError
from core.settings import DistillationSettings, Settings

# Below Linux's ephemeral range: the kernel gives no such port to a connection between our look and rank 0's bind.
_PORTS = range(20_000, 32_000)


def trainer_command(settings: Settings, inbox: Path) -> list[str]:
    """DeepSpeed's launcher, as many ranks as set, on one node. The same form serves CUDA and `DS_ACCELERATOR=cpu`.

    `--num_gpus` counts ranks on either. DeepSpeed's default port, 29500, could serve one group per node only. The
    ranks load base and encoder at once, and end when this process is gone.
    """
    group = settings.distillation
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "warning", "--no_local_rank"]
    place = ["--num_gpus", str(group.ranks), "--master_port", str(free_port())]
    trainer = ["--module", "workers.distillation.trainer", "--inbox", str(inbox), "--parent", str(os.getpid())]
    models = ["--base", settings.base_model, "--base-dir", str(settings.base_dir), "--encoder", settings.encoder]
    config = ["--deepspeed-config", str(group.deepspeed_config)] if group.deepspeed_config else []
    return [*launcher, *place, *trainer, *models, *config, "--threads", str(_threads(group))]


def trainer_environment(settings: DistillationSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """The owner's environment for the group: threads per rank set, the supervisor's own metrics files left out."""
    passed = {name: value for name, value in environment.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    return passed | {"OMP_NUM_THREADS": str(_threads(settings)), "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on now. Raises `SetupError` if none is found."""
    for port in random.sample(_PORTS, k=200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SetupError("No free TCP port on 127.0.0.1 for the training processes.")


def _threads(settings: DistillationSettings) -> int:
    return settings.threads or max(1, (os.cpu_count() or 1) // settings.ranks)
