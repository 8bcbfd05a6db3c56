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


_DEVICES = "CUDA_VISIBLE_DEVICES"


def trainer_command(settings: Settings, inbox: Path, environment: Mapping[str, str]) -> list[str]:
    """DeepSpeed's launcher, as many ranks as set, on one node, in `trainer_environment`'s `environment`.

    The same form serves CUDA and `DS_ACCELERATOR=cpu`: `--num_gpus` counts ranks on either. Given together with
    CUDA_VISIBLE_DEVICES the launcher would overrule the latter and take the first GPUs, so then it counts those.
    Its default port, 29500, could serve one group per node only. The ranks load base and encoder at once, and end when
    this process is gone.
    """
    group = settings.distillation
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "warning", "--no_local_rank"]
    ranks = [] if _chosen_devices(environment) else ["--num_gpus", str(group.ranks)]
    trainer = [
        "--master_port",
        str(free_port()),
        "--module",
        "workers.distillation.trainer",
        "--inbox",
        str(inbox),
        "--parent",
        str(os.getpid()),
    ]
    models = ["--base", settings.base_model, "--base-dir", str(settings.base_dir), "--encoder", settings.encoder]
    config = ["--deepspeed-config", str(group.deepspeed_config)] if group.deepspeed_config else []
    return [*launcher, *ranks, *trainer, *models, *config, "--threads", str(_threads(group))]


def trainer_environment(settings: DistillationSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """The owner's environment for the group: threads per rank set, one device per rank where devices are chosen, and
    the supervisor's own metrics files left out. Raises `SetupError` where fewer devices are chosen than ranks."""
    devices = _chosen_devices(environment)
    if devices and len(devices) < settings.ranks:
        raise SetupError(f"{_DEVICES} names fewer devices than the {settings.ranks} ranks that are set.")
    chosen = {_DEVICES: ",".join(devices[: settings.ranks])} if devices else {}
    passed = {name: value for name, value in environment.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    # Threads that wait for each other spin for some microseconds, then sleep: spinning on costs all who share a core,
    # sleeping at once costs a run on quiet cores a quarter of its time.
    if "OMP_WAIT_POLICY" not in passed:
        passed.setdefault("GOMP_SPINCOUNT", "20000")
    return passed | chosen | {"OMP_NUM_THREADS": str(_threads(settings)), "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on now. Raises `SetupError` if none is found."""
    for port in random.sample(_PORTS, k=200):  # nosec B311
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SetupError("No free TCP port on 127.0.0.1 for the training processes.")


def _chosen_devices(environment: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, unless the group runs on the CPU."""
    named = "" if environment.get("DS_ACCELERATOR") == "cpu" else environment.get(_DEVICES, "")
    return [device for device in named.split(",") if device]


def _threads(settings: DistillationSettings) -> int:
    return settings.threads or max(1, (os.cpu_count() or 1) // settings.ranks)
