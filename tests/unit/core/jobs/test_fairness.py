"""Weighted surplus round-robin: shares, bounds and starvation, over random tenants and capacities."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.jobs.fairness import Contender, Waiting, decayed, select


@dataclass
class Tenant:
    """A tenant in a simulated dispatcher; its state goes through `select` as it goes through the database.

    `costs` are the estimates of what waits, `flying` of what has left and not ended, `served` of all that has left.
    """

    name: str
    weight: float
    costs: list[float]
    deficit: float = 0.0
    turn: int = 0
    room: int = 10**6
    served: float = 0.0
    flying: list[float] = field(default_factory=list)
    longest: float = field(init=False)
    picked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.longest = max(self.costs)

    def end_oldest(self, used: float | None = None) -> None:
        """A job ends, after `used` seconds or as long as was thought."""
        estimate = self.flying.pop(0)
        self.deficit -= estimate if used is None else used


def dispatch(tenants: list[Tenant], capacity: int) -> list[str]:
    contenders = [
        Contender(
            t.name,
            t.weight,
            t.deficit,
            sum(t.flying),
            t.turn,
            t.room,
            tuple(Waiting(f"{t.name}:{len(t.picked) + i}", cost) for i, cost in enumerate(t.costs[:capacity])),
        )
        for t in tenants
        if t.costs
    ]
    selection = select(contenders, capacity)
    by_name = {t.name: t for t in tenants}
    for name, deficit in selection.deficits.items():
        by_name[name].deficit, by_name[name].turn = deficit, selection.turns[name]
    for job in selection.picked:
        tenant = by_name[job.job_id.split(":")[0]]
        assert tenant.costs.pop(0) == job.cost, "a tenant's jobs keep their order"
        tenant.flying.append(job.cost)
        tenant.served += job.cost
        tenant.picked.append(job.job_id)
    return [job.job_id for job in selection.picked]


@pytest.mark.parametrize("thought", [0.1, 60.0, 6000.0], ids="thought of as {} s".format)
@pytest.mark.parametrize("took", [0.1, 60.0, 6000.0], ids="took {} s".format)
def test_a_flood_of_one_tenant_does_not_hold_up_another(thought: float, took: float) -> None:
    """Whatever jobs are thought to cost and really cost, and however long the flood was alone."""
    flood, single = Tenant("flood", 1.0, [thought] * 1000), Tenant("single", 1.0, [6000.0])
    for _ in range(20):
        dispatch([flood], 4)
        for _ in range(4):
            flood.end_oldest(took)
    assert dispatch([flood, single], 2)[0] == "single:0"


def test_a_flood_that_runs_does_not_hold_up_another() -> None:
    flood, single = Tenant("flood", 1.0, [60.0] * 1000), Tenant("single", 1.0, [6000.0])
    dispatch([flood], 4)
    assert dispatch([flood, single], 2)[0] == "single:0"


def test_a_tenant_of_three_times_the_weight_gets_three_times_the_seconds() -> None:
    heavy, light = Tenant("heavy", 3.0, [20.0] * 500), Tenant("light", 1.0, [20.0] * 500)
    for _ in range(200):
        dispatch([heavy, light], 1)
    assert heavy.served / light.served == pytest.approx(3.0, rel=0.1)


def test_shares_are_of_seconds_and_not_of_jobs() -> None:
    long, short = Tenant("long", 1.0, [100.0] * 200), Tenant("short", 1.0, [10.0] * 2000)
    for _ in range(300):
        dispatch([long, short], 1)
    assert abs(long.served - short.served) <= 100.0


def test_shares_are_of_what_was_used_and_not_of_what_was_thought() -> None:
    wrong, right = Tenant("wrong", 1.0, [100.0] * 900), Tenant("right", 1.0, [10.0] * 900)
    used = {"wrong": 0.0, "right": 0.0}
    for _ in range(600):
        dispatch([wrong, right], 1)
        for tenant in (wrong, right):
            while tenant.flying:
                tenant.end_oldest(10.0)
                used[tenant.name] += 10.0
    assert abs(used["wrong"] - used["right"]) <= 10.0


def test_a_lonely_tenant_gets_the_whole_capacity() -> None:
    assert len(dispatch([Tenant("only", 0.01, [500.0] * 9)], 8)) == 8


def test_a_tenant_at_its_cap_is_passed_over() -> None:
    capped, other = Tenant("capped", 1.0, [10.0] * 5, room=1), Tenant("other", 1.0, [10.0] * 5)
    assert sorted(dispatch([capped, other], 4)) == ["capped:0", "other:0", "other:1", "other:2"]


def test_idle_time_cannot_be_saved_up() -> None:
    idle, busy = Tenant("idle", 1.0, [10.0] * 50), Tenant("busy", 1.0, [10.0] * 500)
    for _ in range(100):
        dispatch([busy], 1)
        busy.end_oldest()
    dispatch([idle, busy], 20)
    assert abs(idle.served - (busy.served - 1000.0)) <= 10.0


@pytest.mark.parametrize("room", [0, 1])
def test_time_at_the_cap_cannot_be_saved_up(room: int) -> None:
    """Neither against those who were served meanwhile, nor against those who come later."""
    capped, busy = Tenant("capped", 1.0, [10.0] * 50, room=room), Tenant("busy", 1.0, [10.0] * 500)
    dispatch([capped, busy], 2)
    capped.room = 0
    for _ in range(100):
        dispatch([capped, busy], 1)
        busy.end_oldest()
    capped.room, late = 10**6, Tenant("late", 1.0, [10.0] * 50)
    before = {tenant.name: tenant.served for tenant in (capped, busy, late)}
    dispatch([capped, busy, late], 30)
    served = [tenant.served - before[tenant.name] for tenant in (capped, busy, late)]
    assert max(served) - min(served) <= 30.0, "a job, and what was in flight before"


def test_a_debt_is_paid_back_before_the_next_job() -> None:
    debtor, other = Tenant("debtor", 1.0, [10.0] * 50, deficit=-205.0), Tenant("other", 1.0, [10.0] * 50)
    for _ in range(20):
        dispatch([debtor, other], 1)
        other.end_oldest()
    assert (debtor.served, other.served) == (0.0, 200.0)
    for _ in range(20):
        dispatch([debtor, other], 1)
    assert abs(debtor.served - (other.served - 205.0)) <= 10.0


def test_debts_fade_by_half_in_each_half_life() -> None:
    assert decayed(-100.0, 3600.0, 3600.0) == pytest.approx(-50.0)
    assert decayed(-80.0, 7200.0, 3600.0) == pytest.approx(-20.0)
    assert decayed(-80.0, -5.0, 3600.0) == -80.0


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
@given(
    st.lists(st.tuples(st.floats(0.2, 5.0), st.floats(1.0, 300.0)), min_size=2, max_size=5),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_backlogged_tenants_stay_within_a_bound_of_their_share(
    tenants: list[tuple[float, float]], capacity: int, random: Random
) -> None:
    state = [Tenant(str(i), weight, [cost] * 400) for i, (weight, cost) in enumerate(tenants)]
    for _ in range(60):
        dispatch(state, capacity)
        for tenant in state:
            for _ in range(random.randint(0, len(tenant.flying))):
                tenant.end_oldest()
        for one in state:
            for other in state:
                ahead = one.served / one.weight - other.served / other.weight
                assert ahead <= one.longest / one.weight + 1e-6
