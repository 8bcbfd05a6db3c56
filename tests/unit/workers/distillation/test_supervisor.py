"""What the supervisor is made of: no torch, a launcher's command line, a directory of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import SetupError
from core.settings import DistillationSettings, Settings
from workers.distillation.launch import free_port, trainer_command, trainer_environment
from workers.distillation.scratch import scratch_directory


def test_the_supervisor_never_imports_torch() -> None:
    code = (
        "import sys, workers.distillation.__main__, workers.distillation.guard\n"
        "heavy = {'torch', 'deepspeed', 'transformers', 'peft'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_trainer_starts_under_deepspeeds_launcher_on_a_port_of_its_own(tmp_path: Path) -> None:
    settings = Settings(distillation=DistillationSettings(ranks=2, threads=1), _env_file=None)
    command = trainer_command(settings, tmp_path, {})
    assert command[1:3] == ["-m", "deepspeed.launcher.runner"]
    assert command[command.index("--num_gpus") + 1] == "2"
    assert command[command.index("--master_port") + 1] != "29500"
    assert command[command.index("--inbox") + 1] == str(tmp_path)
    assert command.index("--num_gpus") < command.index("--module") < command.index("--inbox")


def test_devices_that_were_chosen_are_kept_one_for_each_rank(tmp_path: Path) -> None:
    settings = Settings(distillation=DistillationSettings(ranks=2), _env_file=None)
    environment = trainer_environment(settings.distillation, {"CUDA_VISIBLE_DEVICES": "3,5,7"})
    assert environment["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert "--num_gpus" not in trainer_command(settings, tmp_path, environment)
    on_cpu = {"CUDA_VISIBLE_DEVICES": "3", "DS_ACCELERATOR": "cpu"}
    assert "--num_gpus" in trainer_command(settings, tmp_path, trainer_environment(settings.distillation, on_cpu))
    with pytest.raises(SetupError, match="fewer devices"):
        trainer_environment(settings.distillation, {"CUDA_VISIBLE_DEVICES": "3"})


def test_the_trainer_does_not_write_into_the_supervisors_metrics() -> None:
    passed = trainer_environment(DistillationSettings(threads=3), {"PROMETHEUS_MULTIPROC_DIR": "/x", "HOME": "/h"})
    assert passed == {"HOME": "/h", "OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "20000", "PYTHONUNBUFFERED": "1"}


def test_a_free_port_is_one_that_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


def test_a_scratch_directory_is_its_owners_and_what_a_dead_one_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    (left / "context.json").write_text("{}")
    with scratch_directory(tmp_path, "first") as first:
        assert not left.exists()
        (first / "context.json").write_text("{}")
        with scratch_directory(tmp_path, "second") as second:
            assert first.exists()
        assert not second.exists()
    assert not first.exists()
