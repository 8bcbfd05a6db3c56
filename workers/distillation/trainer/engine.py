"""DeepSpeed: the process group, its configuration, and the engine around the adapters' parameters."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.adapters.files import number_of_layer
from core.adapters.packed import PackedAdapters
from core.errors import AdapterInvalid
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.student import Batch, Loss


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
    """DeepSpeed around the adapters in training of one base model; the base itself stays frozen.

    One engine serves run after run: `reset` gives an adapter fresh weights and an optimiser without a past. Each
    adapter is two groups of parameters with learning rates of their own; what no step names does not move. Under ZeRO-3
    the base is partitioned as well, and every forward pass is then a matter of all ranks.
    """

    def __init__(
        self,
        model: Any,
        adapters: PackedAdapters,
        config: Mapping[str, Any],
        loss: Loss,
        *,
        count: int,
        first_layer: int,
    ) -> None:
        import deepspeed

        self.adapters = adapters
        self.count = count
        self.sharded = zero_stage(config) == 3
        self._layers = {name: layer for name, layer in adapters.layers.items() if first_layer <= number_of_layer(name)}
        if not self._layers:
            raise ValueError(f"No layer from number {first_layer} on has a projection to adapt.")
        for layer in self._layers.values():
            layer.open_for_training(count)
        # One group per tensor kind lets B learn faster than A (LoRA+, arXiv 2402.12354).
        groups = [
            {"params": [layer.in_training(number)[side] for layer in self._layers.values()]}
            for number in range(count)
            for side in (0, 1)
        ]
        student = _Student(model if self.sharded else None, [p for group in groups for p in group["params"]], loss)
        optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=student,
            optimizer=optimizer,
            config=dict(config),
            dist_init_required=False,
        )

    def reset(self, number: int, seed: int, start: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """The weights in `start`, or fresh ones: A uniform as in PEFT, B zero; no momentum from before.

        Raises `AdapterInvalid` where `start` is not what this engine `takes`.
        """
        if start is not None and not self.takes(start):
            raise AdapterInvalid("The earlier version's adapter does not fit this recipe.")
        generator = torch.Generator().manual_seed(seed)
        parameters = [p for layer in self._layers.values() for p in layer.in_training(number)]
        with self._gathered(parameters, writing=True), torch.no_grad():
            for name, layer in self._layers.items():
                a, b = layer.in_training(number)
                fresh = (torch.rand(a.shape, generator=generator) * 2 - 1) * a.shape[1] ** -0.5
                new_a, new_b = (fresh, torch.zeros(b.shape)) if start is None else start[name]
                a.copy_(new_a)
                b.copy_(new_b)
        if hasattr(self.optimizer, "refresh_fp32_params"):
            self.optimizer.refresh_fp32_params()
        self._forget(number)

    def takes(self, weights: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
        """Whether `weights` are of the layers and shapes that this engine trains."""
        shapes = {
            name: ((layer.rank, layer.base.in_features), (layer.base.out_features, layer.rank))
            for name, layer in self._layers.items()
        }
        return {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in weights.items()} == shapes

    def step(self, batch: Batch, rates: Mapping[int, tuple[float, float]]) -> list[float]:
        """One optimiser step with learning rates of A and B by adapter; this rank's losses, one per adapter of it."""
        for at, group in enumerate(self.optimizer.param_groups):
            group["lr"] = rates.get(at // 2, (0.0, 0.0))[at % 2]
        self.engine.train()
        losses: Tensor = self.engine(batch)
        self.engine.backward(losses.sum())
        self.engine.step()
        return [float(loss) for loss in losses.detach()]

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> list[float]:
        self.engine.eval()
        return [float(loss) for loss in self.engine(batch)]

    def read(self, number: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer name to `(a [rank, in], b [out, rank])` of one adapter: whole, on every rank, in fp32 on the CPU."""
        with self._gathered([p for layer in self._layers.values() for p in layer.in_training(number)]):
            pairs = {name: layer.in_training(number) for name, layer in self._layers.items()}
            return {name: (_copied(a), _copied(b)) for name, (a, b) in pairs.items()}

    def close(self) -> None:
        self.engine.destroy()

    def _forget(self, number: int) -> None:
        """Adam's moments and step count of one adapter, whatever DeepSpeed has made of its groups."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        for group in inner.param_groups[2 * number : 2 * number + 2]:
            for parameter in group["params"]:
                for value in inner.state.get(parameter, {}).values():
                    if isinstance(value, Tensor):
                        value.zero_()

    @contextmanager
    def _gathered(self, parameters: Sequence[nn.Parameter], *, writing: bool = False) -> Iterator[None]:
        """Within it the parameters are whole, also under ZeRO-3; rank 0's are kept where they are written."""
        if not self.sharded:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if writing else None):
            yield


class _Student(nn.Module):
    """What DeepSpeed sees: the trained tensors, and under ZeRO-3 the base that it has to partition."""

    def __init__(self, model: Any, parameters: Sequence[nn.Parameter], loss: Loss) -> None:
        super().__init__()
        self.packed = nn.ParameterList(parameters if model is None else [])
        if model is not None:
            self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(batch)


def _copied(parameter: Tensor) -> Tensor:
    return parameter.detach().float().cpu().clone()


def leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
