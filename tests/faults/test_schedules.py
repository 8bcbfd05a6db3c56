"""A fixed handful of random schedules; `make test-faults-long` plays hundreds."""

from __future__ import annotations

import os

import pytest

from tests.faults.brokers import BROKERS, Broker
from tests.faults.choosing import cases
from tests.faults.schedules import Player, drawn
from tests.faults.stack import Stack

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else [11, 12, 13]


@pytest.mark.parametrize("broker_name", cases(BROKERS, "redis"), indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_breaks_in_a_random_schedule_every_promise_is_kept(stack: Stack, broker: Broker, seed: int) -> None:
    schedule = drawn(seed)
    assert Player(stack, broker).play(schedule) == [], f"{schedule}\n{stack.tails()}"


def test_a_seed_always_draws_the_same_schedule() -> None:
    assert drawn(3) == drawn(3) != drawn(4)
