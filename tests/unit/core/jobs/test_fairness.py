"""Weighted deficit round-robin: shares, bounds and starvation, over random tenants and capacities."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.jobs.fairness import Contender, Waiting, decayed, select

QUANTUM = 30.0


@dataclass
class Tenant:
    """A tenant in a simulated dispatcher; its state goes through `select` as it goes through the database."""

    name: str
    weight: float
    costs: list[float]
    deficit: float = 0.0
    turn: int = 0
    room: int = 10**6
    served: float = 0.0
    longest: float = field(init=False)
    picked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.longest = max(self.costs)


def dispatch(tenants: list[Tenant], capacity: int) -> list[str]:
    contenders = [
        Contender(
            t.name,
            t.weight,
            t.deficit,
            t.turn,
            t.room,
            tuple(Waiting(f"{t.name}:{len(t.picked) + i}", cost) for i, cost in enumerate(t.costs[: capacity + 1])),
        )
        for t in tenants
        if t.costs
    ]
    selection = select(contenders, capacity, QUANTUM)
    by_name = {t.name: t for t in tenants}
    for name, deficit in selection.deficits.items():
        by_name[name].deficit, by_name[name].turn = deficit, selection.turns[name]
    for job in selection.picked:
        tenant = by_name[job.job_id.split(":")[0]]
        assert tenant.costs.pop(0) == job.cost, "a tenant's jobs keep their order"
        tenant.served += job.cost
        tenant.picked.append(job.job_id)
    return [job.job_id for job in selection.picked]


def test_a_flood_of_one_tenant_does_not_hold_up_another() -> None:
    flood, single = Tenant("flood", 1.0, [60.0] * 1000), Tenant("single", 1.0, [60.0])
    dispatch([flood], 4)
    assert "single:0" in dispatch([flood, single], 2)


def test_a_tenant_of_three_times_the_weight_gets_three_times_the_seconds() -> None:
    heavy, light = Tenant("heavy", 3.0, [20.0] * 500), Tenant("light", 1.0, [20.0] * 500)
    for _ in range(200):
        dispatch([heavy, light], 1)
    assert heavy.served / light.served == pytest.approx(3.0, rel=0.1)


def test_shares_are_of_seconds_and_not_of_jobs() -> None:
    long, short = Tenant("long", 1.0, [100.0] * 200), Tenant("short", 1.0, [10.0] * 2000)
    for _ in range(300):
        dispatch([long, short], 1)
    assert abs(long.served - short.served) <= QUANTUM + 100.0 + 10.0


def test_a_lonely_tenant_gets_the_whole_capacity() -> None:
    assert len(dispatch([Tenant("only", 0.01, [500.0] * 9)], 8)) == 8


def test_a_tenant_at_its_cap_is_passed_over() -> None:
    capped, other = Tenant("capped", 1.0, [10.0] * 5, room=1), Tenant("other", 1.0, [10.0] * 5)
    assert sorted(dispatch([capped, other], 4)) == ["capped:0", "other:0", "other:1", "other:2"]


def test_idle_time_cannot_be_saved_up() -> None:
    tenant = Tenant("t", 1.0, [1.0])
    dispatch([tenant], 5)
    assert tenant.deficit <= 0.0


def test_a_debt_is_paid_back_before_the_next_job() -> None:
    debtor, other = Tenant("debtor", 1.0, [10.0] * 50, deficit=-300.0), Tenant("other", 1.0, [10.0] * 50)
    for _ in range(20):
        dispatch([debtor, other], 1)
    assert debtor.served == 0.0
    assert other.served == 200.0


def test_debts_fade_by_half_in_each_half_life_and_credits_stay() -> None:
    assert decayed(-100.0, 3600.0, 3600.0) == pytest.approx(-50.0)
    assert decayed(-80.0, 7200.0, 3600.0) == pytest.approx(-20.0)
    assert decayed(-80.0, -5.0, 3600.0) == -80.0
    assert decayed(80.0, 7200.0, 3600.0) == 80.0


TENANTS = st.lists(
    st.tuples(st.floats(0.1, 10.0), st.lists(st.floats(1.0, 600.0), min_size=1, max_size=12)), min_size=1, max_size=6
)


@settings(deadline=None)
@given(TENANTS, st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_capacity_is_used_as_long_as_anything_waits(
    tenants: list[tuple[float, list[float]]], capacities: list[int]
) -> None:
    state = [Tenant(str(i), weight, list(costs)) for i, (weight, costs) in enumerate(tenants)]
    for capacity in capacities:
        waiting = sum(len(t.costs) for t in state)
        assert len(dispatch(state, capacity)) == min(capacity, waiting)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.2, 5.0), st.floats(1.0, 300.0)), min_size=2, max_size=5), st.integers(1, 4))
def test_backlogged_tenants_stay_within_a_bound_of_their_share(
    tenants: list[tuple[float, float]], capacity: int
) -> None:
    state = [Tenant(str(i), weight, [cost] * 400) for i, (weight, cost) in enumerate(tenants)]
    for _ in range(60):
        dispatch(state, capacity)
        for one in state:
            for other in state:
                bound = QUANTUM + one.longest / one.weight + other.longest / other.weight
                assert one.served / one.weight - other.served / other.weight <= bound + 1e-6
