"""Requests per minute, counted in a real Redis, and by a process alone where Redis is away."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from core.errors import RateLimited
from core.metrics import GatewayMetrics
from core.truth.records import Tenant
from gateway.rates import RequestRates
from tests.fixtures.ports import accepts, free_port, wait_until

AT_THE_TURN_OF_A_MINUTE = 1
"""A process's own windows are minutes of the clock; what slides out of the one before is rounded."""


def a_tenant(most: int | None = None) -> Tenant:
    quotas = {} if most is None else {"quotas": {"requests_per_minute": most}}
    return Tenant(f"tenant_{uuid4().hex}", "t", 1.0, quotas, 0, datetime.now(UTC))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> GatewayMetrics:
    return GatewayMetrics(registry)


def passed(rates: RequestRates, tenant: Tenant, requests: int) -> int:
    """How many of them, eight at a time."""

    def send(_: int) -> int:
        try:
            rates.spend(tenant)
        except RateLimited as problem:
            return problem.retry_after_seconds
        return 0

    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(send, range(requests)))
    assert max(waits) <= 60
    return waits.count(0)


def test_two_gateways_share_one_limit_in_redis_and_tenants_do_not(redis_url: str, metrics: GatewayMetrics) -> None:
    one, other = (RequestRates(redis_url, 20, metrics) for _ in range(2))
    tenant = a_tenant()
    first, second = passed(one, tenant, 15), passed(other, tenant, 15)
    assert (first, second) == (15, 5)
    assert passed(one, a_tenant(), 20) == 20


def test_a_limit_of_its_own_goes_before_the_default(metrics: GatewayMetrics) -> None:
    rates = RequestRates("filesystem://", 5, metrics)
    assert passed(rates, a_tenant(9), 20) in (9, AT_THE_TURN_OF_A_MINUTE + 9)
    assert passed(rates, a_tenant(), 20) in (5, AT_THE_TURN_OF_A_MINUTE + 5)


def test_without_any_limit_nothing_is_counted(metrics: GatewayMetrics, registry: CollectorRegistry) -> None:
    assert passed(RequestRates("filesystem://", None, metrics), a_tenant(), 50) == 50
    assert registry.get_sample_value("latentbank_gateway_rated_total", {"outcome": "allowed"}) is None


def test_a_refusal_says_how_much_is_allowed_and_when_to_come_back(metrics: GatewayMetrics) -> None:
    rates, tenant = RequestRates("amqp://nowhere", None, metrics), a_tenant(1)
    assert passed(rates, tenant, 3) in (1, AT_THE_TURN_OF_A_MINUTE + 1)
    with pytest.raises(RateLimited, match="may send 1 requests a minute; send the next in"):
        rates.spend(tenant)


@pytest.fixture
def own_redis(tmp_path: Path, redis_url: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The URL of a Redis that the test starts and ends itself; `redis_url` says whether there is one to start."""
    started: list[subprocess.Popen[bytes]] = []
    yield f"redis://127.0.0.1:{free_port()}/0", started
    for server in started:
        server.kill()
        server.wait()


def test_while_redis_is_away_a_gateway_goes_by_its_own_counts_and_asks_it_again_later(
    own_redis: tuple[str, list[subprocess.Popen[bytes]]],
    metrics: GatewayMetrics,
    registry: CollectorRegistry,
    tmp_path: Path,
) -> None:
    url, started = own_redis
    clock = Clock()
    rates, tenant = RequestRates(url, 3, metrics, clock), a_tenant()

    def times_alone() -> float | None:
        return registry.get_sample_value("latentbank_gateway_rates_alone_total")

    assert passed(rates, tenant, 9) in (3, AT_THE_TURN_OF_A_MINUTE + 3)
    assert (alone := times_alone()) is not None
    rates_refused(rates, tenant)
    assert times_alone() == alone, "Redis is not asked again and again"

    port = url.rpartition(":")[2].partition("/")[0]
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    wait_until(lambda: accepts(int(port)), 20, "the start of Redis")
    rates_refused(rates, tenant)
    clock.now += 5.0
    assert passed(rates, tenant, 9) == 3, "the counts of Redis are its own"
    assert times_alone() == alone


def rates_refused(rates: RequestRates, tenant: Tenant) -> None:
    with pytest.raises(RateLimited):
        rates.spend(tenant)
