"""DeepSpeed: the process group, its configuration, and the engine around the adapters' parameters."""

from __future__ import annotations

import os

import torch

from workers.distillation.trainer.ranks import Ranks


def join_group() -> Ranks:
    """Joins the process group that the launcher's environment describes; a group of one where there is none."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    import deepspeed

    if not torch.cuda.is_available():
        # No op of DeepSpeed is worth compiling for a CPU group, and there may be no compiler.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False)
    return Ranks.of_group()
