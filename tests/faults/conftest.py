from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from core.adapters.validation import layers_of_base
from core.base_model.description import BaseDescription
from tests.faults.brokers import Broker, running_broker
from tests.faults.client import Tenant, new_tenant
from tests.faults.invariants import broken
from tests.faults.stack import Servers, Stack, made
from tests.fixtures.fake_trainer import note_layers
from tests.fixtures.published import TARGETS
from tests.fixtures.s3 import S3Server

WORKERS = ("distil-1", "distil-2")


@pytest.fixture(scope="session")
def faulty_base(tiny_base: BaseDescription) -> BaseDescription:
    """The tiny Llama, which the fake trainer can make adapters for too."""
    note_layers(tiny_base.path, layers_of_base(tiny_base.path, TARGETS))
    return tiny_base


@pytest.fixture(scope="session")
def stacks(
    postgres_url: str,
    s3_server: S3Server,
    s3_bucket: str,
    faulty_base: BaseDescription,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], tuple[Stack, Broker]]]:
    """Running stacks by the name of their broker, each started when it is first asked for."""
    running: dict[str, tuple[Stack, Broker]] = {}
    with ExitStack() as ends:

        def ask(name: str) -> tuple[Stack, Broker]:
            if name not in running:
                broker = ends.enter_context(running_broker(name))
                servers = Servers(postgres_url, broker.url, s3_server, s3_bucket)
                stack = ends.enter_context(made(servers, tmp_path_factory.mktemp(name), faulty_base))
                stack.start("gateway", "gateway")
                stack.start("orchestrator", "orchestrator")
                for worker in WORKERS:
                    stack.start(worker, "distillation")
                stack.up()
                running[name] = stack, broker
            return running[name]

        yield ask


@pytest.fixture
def broker_name(request: pytest.FixtureRequest) -> str:
    """Redis, unless the test says otherwise: `@pytest.mark.parametrize("broker_name", BROKERS, indirect=True)`."""
    return str(getattr(request, "param", "redis"))


@pytest.fixture
def broker(stacks: Callable[[str], tuple[Stack, Broker]], broker_name: str) -> Broker:
    return stacks(broker_name)[1]


@pytest.fixture
def stack(stacks: Callable[[str], tuple[Stack, Broker]], broker_name: str) -> Iterator[Stack]:
    """A running stack; what the test left of faults is healed after it."""
    running = stacks(broker_name)[0]
    running.orders.clear()
    yield running
    running.heal()
    running.environment.clear()


@pytest.fixture
def tenants(stack: Stack) -> Iterator[list[Tenant]]:
    """The test's tenants; after the test every invariant must hold for them."""
    found: list[Tenant] = []
    yield found
    assert broken(stack, found) == [], stack.tails()


@pytest.fixture
def tenant(stack: Stack, tenants: list[Tenant]) -> Tenant:
    tenants.append(new_tenant(stack))
    return tenants[0]
