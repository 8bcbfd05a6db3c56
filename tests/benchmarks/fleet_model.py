"""A fleet to try the gateway's policy on: its traffic, and workers that are nothing but two LRU caches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.residency import MOST_DIGESTS, ResidencyReport

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CANDIDATES = 3
WARM_CANDIDATES = 24
"""While the fleet warms up each request stands for eight, since a cache takes hours to settle and policy takes time."""
CAPACITY = 16
SLOTS = 15
RAM = 64
NODE_CACHE = 1024
SERVICE_SECONDS = 2.0
MEAN_LOAD = 8.0


@dataclass(frozen=True, slots=True)
class Size:
    """`warm`, `measured` and `after` are numbers of requests: before the figures, for them, and after the deaths."""

    workers: int
    tenants: int
    memories: int
    warm: int
    measured: int
    after: int

    @property
    def requests(self) -> int:
        return self.warm + self.measured + self.after


FULL = Size(workers=1000, tenants=10_000, memories=1_000_000, warm=130_000, measured=130_000, after=90_000)
SMALL = Size(workers=40, tenants=400, memories=40_000, warm=6000, measured=6000, after=4000)


@dataclass(frozen=True, slots=True, eq=False)
class Banks:
    """Tenant t has the memories `starts[t]` to `starts[t + 1]`, the most popular first; tenant 0 asks most."""

    starts: Ints
    digests: tuple[str, ...]

    def of(self, tenant: int) -> tuple[str, ...]:
        return self.digests[self.starts[tenant] : self.starts[tenant + 1]]


@dataclass(frozen=True, slots=True)
class Request:
    """`seconds`: how long it is under way; `memories`: the candidates whose adapters it needs."""

    at: float
    tenant: int
    seconds: float
    memories: tuple[int, ...]


def banks(size: Size, rng: np.random.Generator) -> Banks:
    """Sizes are log-normal (sigma 1) and have nothing to do with how much a tenant asks; each is at least 1."""
    weights = rng.lognormal(0.0, 1.0, size.tenants)
    extra = rng.multinomial(size.memories - size.tenants, weights / weights.sum())
    digests = tuple(f"sha256:{number:016x}{0:048x}" for number in range(size.memories))
    return Banks(np.concatenate(([0], np.cumsum(extra + 1))), digests)


def traffic(size: Size, of: Banks, rng: np.random.Generator) -> Iterator[Request]:
    """Poisson arrivals. Tenants are drawn by Zipf's law with exponent 1, and so is each memory within its bank."""
    n = size.requests
    at = np.cumsum(rng.exponential(SERVICE_SECONDS / (size.workers * MEAN_LOAD), n))
    popularity = np.cumsum(1.0 / np.arange(1, size.tenants + 1))
    tenants = np.searchsorted(popularity, rng.random(n) * popularity[-1])
    seconds = rng.exponential(SERVICE_SECONDS, n)
    lengths = np.diff(of.starts)[tenants][:, None]
    # Ranks whose logarithm is uniform have probabilities of about 1 / rank.
    ranks = np.minimum(np.exp(rng.random((n, WARM_CANDIDATES)) * np.log(lengths + 1)).astype(np.int64), lengths) - 1
    memories = of.starts[tenants][:, None] + ranks
    for number in range(n):
        wanted = memories[number, : WARM_CANDIDATES if number < size.warm else CANDIDATES].tolist()
        yield Request(float(at[number]), int(tenants[number]), float(seconds[number]), tuple(wanted))


class Worker:
    """What a worker holds: RAM over the node's cache, each with the least recently used going first."""

    def __init__(self) -> None:
        self._ram: OrderedDict[str, None] = OrderedDict()
        self._node_cache: OrderedDict[str, None] = OrderedDict()

    def use(self, digest: str) -> tuple[bool, bool]:
        """Whether the adapter was in RAM, and whether it was on the node at all."""
        return _use(self._ram, digest, RAM), _use(self._node_cache, digest, NODE_CACHE)

    def report(self, under_way: int) -> ResidencyReport:
        ram = tuple(reversed(self._ram))
        node_cache = tuple(reversed(self._node_cache))[:MOST_DIGESTS]
        running = min(under_way, CAPACITY)
        return ResidencyReport(ram[:SLOTS], ram, node_cache, running, under_way - running, CAPACITY)


def _use(cache: OrderedDict[str, None], digest: str, most: int) -> bool:
    if digest in cache:
        cache.move_to_end(digest)
        return True
    cache[digest] = None
    if len(cache) > most:
        cache.popitem(last=False)
    return False
