"""How the next token is chosen from a row's logits. Each request has its own source of chance, untouched by others'."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `top_p` keeps the likeliest tokens that together have that probability (1: all);
    the same `seed` gives the same tokens on the same device."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


class Sampler:
    """Draws the tokens of one request."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._chance = torch.Generator()
        if sampling.seed is None:
            self._chance.seed()
        else:
            self._chance.manual_seed(sampling.seed)

    def next_token(self, logits: Tensor) -> int:
        """The next token from `logits` of shape `[vocabulary]`."""
        if self.sampling.greedy:
            return int(logits.argmax(-1))
        # On the CPU in fp32, so that a seed means the same wherever the model runs.
        probabilities = (logits.float().cpu() / self.sampling.temperature).softmax(-1)
        return int(torch.multinomial(nucleus(probabilities, self.sampling.top_p), 1, generator=self._chance))


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """`probabilities` `[vocabulary]` where all but the smallest set of likeliest tokens that reaches `top_p` is zero.

    The likeliest token always stays (nucleus sampling, arXiv 1904.09751).
    """
    if top_p >= 1.0:
        return probabilities
    ordered, index = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    beyond = before >= top_p
    beyond[0] = False
    return probabilities.index_fill(0, index[beyond], 0.0)
