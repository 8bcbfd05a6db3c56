"""What an inference worker tells of itself: the adapters it holds, tier by tier, and how busy it is.

A report is an endpoint's answer and not metrics: digests as labels would be without bound.
"""

from __future__ import annotations

from dataclasses import dataclass

RESIDENCY_PATH = "/v1/internal/residency"

MOST_DIGESTS = 1024
"""Digests of one tier in a report, what would go last first: at most a quarter of a megabyte for all three."""


@dataclass(frozen=True, slots=True)
class ResidencyReport:
    """Digests (`sha256:…`) by tier, what would go last first and at most `MOST_DIGESTS` of each; then requests.

    `capacity` is how many requests share the engine's passes; with more than that some wait.
    """

    slot: tuple[str, ...]
    ram: tuple[str, ...]
    node_cache: tuple[str, ...]
    running: int
    waiting: int
    capacity: int
