from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from core.truth import forgetting
from core.truth.audit import ADMIN, Actor
from tests.unit.workers.inference.conftest import Stand
from workers.inference.following import Following

START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """Two clocks that go together, the question longest under way, and whether something is still being let go."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.oldest: float | None = None
        self.letting_go = False
        self.following = Following(
            lambda: START + timedelta(seconds=self.seconds),
            oldest=lambda: self.oldest,
            letting_go=lambda: self.letting_go,
            clock=lambda: self.seconds,
        )

    def follow(self, *, done: bool = True) -> float | None:
        """A pass; up to which second the worker has followed then."""
        begun = self.following.begin()
        self.seconds += 1
        if done:
            self.following.end(begun)
        until = self.following.until
        return None if until is None else (until - START).total_seconds()


@pytest.fixture
def world() -> World:
    return World()


def test_a_pass_counts_at_once_where_no_question_was_under_way(world: World) -> None:
    assert world.follow() == 100
    assert world.follow() == 101


def test_a_question_from_before_a_pass_holds_it_up_and_later_ones_do_not(world: World) -> None:
    world.oldest = 99.0
    assert world.follow() is None
    assert world.follow() is None
    world.oldest = 101.5
    assert world.follow() == 101, "the passes at 100 and 101 began before any question that is left"
    assert world.follow() == 101, "the one at 102 did not"
    world.oldest = None
    assert world.follow() == 104


def test_a_pass_that_failed_or_left_something_counts_for_nothing(world: World) -> None:
    assert world.follow(done=False) is None
    world.letting_go = True
    assert world.follow() is None
    world.letting_go = False
    assert world.follow(done=False) is None
    assert world.follow() == 103


def test_a_question_is_under_way_until_nothing_of_it_is_left(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", "The mayor of Velmora is Ilka Brandt.", seed=1)
    assert stand.service.oldest() is None
    question = stand.question(tenant, "Who is mayor of Velmora?")
    arrived = question.arrived
    flight = stand.flight(question)
    del question
    next(flight)
    assert stand.service.oldest() == arrived
    stand.publisher.delete(entry, tenant)
    assert stand.service.follow()
    assert stand.residency.letting_go, "it answers to its end"
    for _ in flight:
        pass
    del flight
    assert stand.service.oldest() is None
    assert not stand.residency.letting_go


def test_with_a_tenant_that_is_deleted_goes_what_it_asked(stand: Stand) -> None:
    gone, kept = stand.publisher.tenant(), stand.publisher.tenant("kept")
    for tenant in (gone, kept):
        stand.ask(stand.question(tenant, "What is the name of my doctor, the one by the river?", mode="off"))
    assert stand.prefix_cache.salts == {gone, kept}
    with stand.publisher.database.begin() as connection:
        forgetting.delete_tenant(connection, gone, Actor(ADMIN))
    assert stand.service.follow()
    assert stand.prefix_cache.salts == {kept}
