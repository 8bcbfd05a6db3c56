"""DeepSpeed: the process group, its configuration, and the engine around the adapters' parameters."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.adapters.packed import PackedAdapters
from workers.distillation.trainer.ranks import Ranks


def join_group(directory: Path | None = None) -> Ranks:
    """Joins the process group that the launcher's environment describes; a group of one where there is none.

    Ranks of one machine meet over a file in `directory`: torch's TCP store would listen on every interface.
    """
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        # No op of DeepSpeed is worth compiling for a CPU group, and there may be no compiler.
        deepspeed.ops.__compatible_ops__ = {}
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(
        "nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False, **_meeting(directory)
    )
    return Ranks.of_group()


def _meeting(directory: Path | None) -> dict[str, Any]:
    """Where the ranks find each other, as arguments of `init_distributed`; none, for the address in the environment."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if int(os.environ.get("LOCAL_SIZE", size)) != size or (size > 1 and directory is None):
        return {}
    directory = directory or Path(tempfile.mkdtemp(prefix="latentbank-ranks-"))
    directory.mkdir(parents=True, exist_ok=True)
    # The launcher's port is new for every group, so no group finds the file of an earlier one.
    meeting = directory.absolute() / f"meeting-{os.environ['MASTER_PORT']}"
    return {"init_method": f"file://{meeting}", "rank": rank, "world_size": size}


def read_config(path: Path | None, ranks: int) -> dict[str, Any]:
    """DeepSpeed's configuration: the one given, or the one in `infra/deepspeed` that fits this device and group."""
    alone = ranks == 1
    if torch.cuda.is_available():
        name = "one-gpu.json" if alone else "multi-gpu.json"
    else:
        name = "cpu.json" if alone else "cpu-ranks.json"
    text = path.read_text() if path is not None else (resources.files("infra") / "deepspeed" / name).read_text()
    config: dict[str, Any] = json.loads(text)
    return config


def zero_stage(config: Mapping[str, Any]) -> int:
    return int(config.get("zero_optimization", {}).get("stage", 0))


class AdapterEngine:
    """DeepSpeed around the packed adapters of one base model; the base itself stays frozen.

    One engine serves memory after memory: `reset` gives it fresh weights and an optimiser without a past. Under ZeRO-3
    the base is partitioned as well, and every forward pass is then a matter of all ranks.
    """

    def __init__(self, model: Any, adapters: PackedAdapters, config: Mapping[str, Any], loss: Loss) -> None:
        import deepspeed

        self.adapters = adapters
        self._sharded = zero_stage(config) == 3
        for parameter in adapters.parameters():
            parameter.requires_grad_(True)
        student = _Student(model if self._sharded else None, adapters, loss)
        # One group per tensor kind lets B learn faster than A (LoRA+, arXiv 2402.12354).
        layers = adapters.layers.values()
        groups = [{"params": [layer.a for layer in layers]}, {"params": [layer.b for layer in layers]}]
        optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.99))
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=student,
            optimizer=optimizer,
            config=dict(config),
            dist_init_required=False,
        )

    def reset(self, slot: int, seed: int, scale: float) -> None:
        """Fresh weights in `slot`: A uniform as in PEFT, B zero, everything else zero; no momentum from before."""
        generator = torch.Generator().manual_seed(seed)
        with self._gathered(writing=True), torch.no_grad():
            for layer in self.adapters.layers.values():
                layer.a.zero_()
                layer.b.zero_()
                layer.scale.zero_()
                layer.scale[slot] = scale
                fresh = torch.rand(layer.a.shape[1:], generator=generator) * 2 - 1
                layer.a[slot] = (fresh * layer.a.shape[2] ** -0.5).to(layer.a)
        if hasattr(self.optimizer, "refresh_fp32_params"):
            self.optimizer.refresh_fp32_params()
        self._forget()

    def step(self, batch: Any, rates: tuple[float, float]) -> float:
        """One optimiser step with learning rates for A and B; the loss that `loss` gave on this rank."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.engine.train()
        loss: Tensor = self.engine(batch)
        self.engine.backward(loss)
        self.engine.step()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self, batch: Any) -> float:
        self.engine.eval()
        return float(self.engine(batch))

    def read(self, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """The whole weights in `slot`, on every rank, in fp32 on the CPU."""
        with self._gathered():
            weights = self.adapters.read(slot)
        return {name: (a.float().cpu(), b.float().cpu()) for name, (a, b) in weights.items()}

    def close(self) -> None:
        self.engine.destroy()

    def _forget(self) -> None:
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        for state in inner.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()

    @contextmanager
    def _gathered(self, *, writing: bool = False) -> Iterator[None]:
        """Within it the packed tensors are whole, also under ZeRO-3; rank 0's are kept where they are written."""
        if not self._sharded:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(self.adapters.parameters(), modifier_rank=0 if writing else None):
            yield


Loss = Callable[[Any], Tensor]


class _Student(nn.Module):
    """What DeepSpeed sees: the trained tensors, and under ZeRO-3 the base that it has to partition."""

    def __init__(self, model: Any, adapters: PackedAdapters, loss: Loss) -> None:
        super().__init__()
        self.packed = nn.ParameterList(adapters.parameters() if model is None else [])
        if model is not None:
            self.model = model
        self._loss = loss

    def forward(self, batch: Sequence[Any]) -> Tensor:
        return self._loss(batch)


def leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
