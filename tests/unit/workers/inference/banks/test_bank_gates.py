from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from core.gate.prior import PRIOR
from core.gate.samples import Sample
from core.metrics import InferenceMetrics
from tests.fixtures.published import OPEN, SHUT
from tests.unit.core.gate.examples import memory
from workers.inference.banks import bank_gates
from workers.inference.banks.bank_gates import BankGates

TENANT = "tenant_a"


class Later(Executor):
    """Runs what was submitted when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def gates(later: Later, registry: CollectorRegistry) -> BankGates:
    return BankGates(InferenceMetrics(registry), 0.05, later)


def bank(*seeds: int) -> list[tuple[Sample, ...]]:
    return [tuple(memory(seed, own=20)) for seed in seeds]


def test_a_bank_that_nobody_described_is_judged_by_the_prior(gates: BankGates) -> None:
    assert gates.current(TENANT) == PRIOR
    gates.follow(TENANT, [], None)
    assert gates.current(TENANT) == PRIOR


def test_the_first_gate_is_there_at_once(gates: BankGates, later: Later) -> None:
    gates.follow(TENANT, [], None)
    gates.follow(TENANT, bank(1), None)
    assert later.waiting == []
    assert gates.current(TENANT) != PRIOR


def test_the_old_gate_goes_on_until_the_new_one_is_there(gates: BankGates, later: Later) -> None:
    gates.follow(TENANT, bank(1), None)
    old = gates.current(TENANT)
    gates.follow(TENANT, bank(1, 2), None)
    assert gates.current(TENANT) is old
    later.run()
    assert gates.current(TENANT) != old


def test_an_unchanged_bank_is_not_fitted_again(gates: BankGates, later: Later) -> None:
    gates.follow(TENANT, bank(1), None)
    gates.follow(TENANT, bank(1), 0.05)
    assert later.waiting == []


def test_a_change_that_is_seen_again_before_it_is_fitted_is_fitted_all_the_same(gates: BankGates, later: Later) -> None:
    gates.follow(TENANT, bank(1), None)
    old = gates.current(TENANT)
    for _ in range(2):
        gates.follow(TENANT, bank(1, 2), None)
    assert len(later.waiting) == 1
    later.run()
    assert gates.current(TENANT) != old


def test_only_the_last_of_several_changes_is_fitted(
    gates: BankGates, later: Later, registry: CollectorRegistry
) -> None:
    for seeds in ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)):
        gates.follow(TENANT, bank(*seeds), None)
    later.run()
    fitted = registry.get_sample_value("latentbank_gate_calibrations_total", {"outcome": "conformal"})
    assert fitted == registry.get_sample_value("latentbank_gate_calibration_seconds_count") == 2


def test_a_promised_rate_of_the_tenants_own_moves_the_threshold(gates: BankGates, later: Later) -> None:
    gates.follow(TENANT, bank(1, 2), None)
    usual = gates.current(TENANT)
    gates.follow(TENANT, bank(1, 2), 0.3)
    later.run()
    assert gates.current(TENANT).threshold < usual.threshold


def test_tenants_gates_are_apart_and_go_with_their_banks(gates: BankGates, later: Later) -> None:
    gates.follow("tenant_open", [OPEN], None)
    gates.follow("tenant_shut", [SHUT], None)
    gates.drop("tenant_open")
    assert gates.current("tenant_open") == PRIOR
    assert gates.current("tenant_shut") != PRIOR


def test_a_gate_of_a_bank_that_was_let_go_meanwhile_is_not_kept(gates: BankGates, later: Later) -> None:
    gates.follow(TENANT, bank(1), None)
    gates.follow(TENANT, bank(1, 2), None)
    gates.drop(TENANT)
    later.run()
    assert gates.current(TENANT) == PRIOR


def test_where_fitting_fails_the_old_gate_goes_on_and_the_failure_is_counted(
    gates: BankGates, later: Later, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates.follow(TENANT, bank(1), None)
    old = gates.current(TENANT)

    def broken(*_: object) -> None:
        raise FloatingPointError

    monkeypatch.setattr(bank_gates, "fit", broken)
    gates.follow(TENANT, bank(1, 2), None)
    later.run()
    assert gates.current(TENANT) is old
    assert registry.get_sample_value("latentbank_gate_calibrations_total", {"outcome": "failed"}) == 1
