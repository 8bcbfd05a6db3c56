"""What asks for passes of the model, and who runs them.

Code that needs the model in the middle of its way is a generator: it yields a `Feed` or a `Step` and is sent the
logits. So a request reads from top to bottom, and the engine runs what all requests ask for in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from core.adapters.packed import PackedAdapters
from core.engine.blocks import Block
from core.engine.forward import alone, can_run_together, together
from core.engine.rows import Rows
from core.engine.running import RunningRow, RunningRows


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Asks for `rows` to be fed `tokens`: logits `[rows, keep, vocabulary]` of the last columns; 0: none are needed."""

    rows: Rows
    tokens: Sequence[Sequence[int]]
    keep: int = 1

    @property
    def size(self) -> int:
        return sum(len(row) for row in self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Asks for a running row to be fed `token`: logits `[vocabulary]`."""

    row: RunningRow
    token: int


Result = TypeVar("Result")
Options = ParamSpec("Options")
Passes = Generator[Feed, Tensor, Result]


class Passer:
    """Runs passes of one model; `running` are the rows that write."""

    def __init__(self, model: Any, adapters: PackedAdapters | None = None) -> None:
        self._model = model
        self.running = RunningRows(model, adapters)

    @torch.no_grad()
    def run(self, feeds: Sequence[Feed], steps: Sequence[Step]) -> list[Tensor]:
        """Logits of all `feeds` and then of all `steps`, in one pass. `steps` are of all running rows."""
        blocks = [feed.rows.enter(feed.tokens) for feed in feeds]
        keeps = [feed.keep for feed in feeds]
        if not steps:
            return _pass(self._model, blocks, keeps)
        assert len(steps) == len(self.running), "a pass takes a token from every running row"
        last = self.running.enter({step.row: step.token for step in steps})
        *fed, written = _pass(self._model, [*blocks, last], [*keeps, 1])
        return [*fed, *(written[step.row.index, 0] for step in steps)]

    def reset(self) -> None:
        """After a pass that broke off."""
        self.running.clear()


def run_alone(model: Any, passes: Passes[Result]) -> Result:
    """Runs what asks for passes to its end, each by itself."""
    try:
        feed = next(passes)
        while True:
            with torch.no_grad():
                (logits,) = _pass(model, [feed.rows.enter(feed.tokens)], [feed.keep])
            feed = passes.send(logits)
    except StopIteration as end:
        result: Result = end.value
        return result


def by_itself(
    asking: Callable[Concatenate[Any, Options], Passes[Result]],
) -> Callable[Concatenate[Any, Options], Result]:
    """The same function, for callers that have nobody to share passes with; its first argument is the model."""

    def run(model: Any, /, *args: Options.args, **kwargs: Options.kwargs) -> Result:
        return run_alone(model, asking(model, *args, **kwargs))

    return run


def _pass(model: Any, blocks: Sequence[Block], keeps: Sequence[int]) -> list[Tensor]:
    if can_run_together(model):
        return together(model, blocks, keeps)
    # A model whose attention is its own runs one block after the other.
    return [alone(model, block, max(1, keep)) for block, keep in zip(blocks, keeps, strict=True)]
