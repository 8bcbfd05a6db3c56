from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.residency import ResidencyReport
from gateway.fleet import Fleet
from gateway.holdings import NODE_CACHE, RAM, SLOT, Holdings, holding, holding_of, keys_of

MAX_AGE = 15.0


def digest(number: int) -> str:
    return f"sha256:{number:016x}{'0' * 48}"


def report(*numbers: int, running: int = 0) -> ResidencyReport:
    return ResidencyReport(tuple(digest(number) for number in numbers), (), (), running, 0, 16)


BANK = keys_of([digest(1), digest(2)])


def heard(reports: dict[str, ResidencyReport], now: float = 0.0) -> Fleet:
    fleet = Fleet(MAX_AGE)
    for worker_id, one in reports.items():
        fleet.hear(worker_id, one, now)
    fleet.holdings = Holdings(fleet.fresh(now))
    return fleet


def test_a_key_is_the_beginning_of_a_digest() -> None:
    assert keys_of([digest(7), digest(2**64 - 1)]).tolist() == [7, 2**64 - 1]
    assert keys_of([]).tolist() == []
    for odd in ("", "sha256:0", "sha256:" + "x" * 64):
        with pytest.raises(ValueError):
            keys_of([odd])


def test_an_adapter_in_several_tiers_counts_in_the_best_of_them() -> None:
    slot, ram, node_cache = (keys_of([digest(number) for number in numbers]) for numbers in ([1], [1, 2], [1, 2, 3]))
    held = holding(slot, ram, node_cache)
    assert dict(zip(held.keys.tolist(), held.worth.tolist(), strict=True)) == pytest.approx(
        {1: SLOT, 2: RAM, 3: NODE_CACHE}
    )


numbers = st.integers(0, 12)
tiers = st.tuples(st.sets(numbers), st.sets(numbers), st.sets(numbers))


@given(st.dictionaries(st.sampled_from("abcd"), tiers), st.sets(numbers))
def test_coverage_is_the_share_of_the_bank_that_is_held(
    held: dict[str, tuple[set[int], set[int], set[int]]], bank: set[int]
) -> None:
    reports = {
        id_: ResidencyReport(*(tuple(digest(n) for n in sorted(tier)) for tier in of), 0, 0, 16)
        for id_, of in held.items()
    }
    found = Holdings({id_: holding_of(one) for id_, one in reports.items()}).coverage(
        keys_of([digest(n) for n in sorted(bank)])
    )
    for id_, (slot, ram, node_cache) in held.items():
        worth = sum(SLOT if n in slot else RAM if n in ram else NODE_CACHE if n in node_cache else 0 for n in bank)
        assert found.get(id_, 0.0) == pytest.approx(worth / len(bank) if bank else 0.0)
    assert all(0 < share <= 1.0 for share in found.values())


def test_nothing_is_covered_where_nothing_is_known() -> None:
    assert Holdings({}).coverage(BANK) == {}
    assert heard({"a": report(1)}).known(np.empty(0, np.uint64), 0.0).coverage == {}


def test_the_fleet_knows_who_holds_what_and_who_is_full() -> None:
    fleet = heard({"a": report(1, 2), "b": report(1, running=16), "c": report(5)})
    known = fleet.known(BANK, 1.0)
    assert known.coverage == {"a": 1.0, "b": 0.5}
    assert (known.full, known.lost) == ({"b"}, set())


def test_waiting_requests_count_towards_full() -> None:
    fleet = heard({"a": replace(report(1, running=10), waiting=6), "b": replace(report(1), waiting=6)})
    assert fleet.known(BANK, 1.0).full == {"a"}


def test_an_old_report_counts_for_nothing() -> None:
    fleet = heard({"a": report(1, running=16)})
    assert fleet.known(BANK, MAX_AGE).full == {"a"}
    known = fleet.known(BANK, MAX_AGE + 1)
    assert (known.coverage, known.full) == ({}, set())
    assert fleet.fresh(MAX_AGE + 1) == {}


def test_who_did_not_answer_is_lost_with_what_it_held_until_it_answers() -> None:
    fleet = heard({"a": report(1), "b": report(1)})
    fleet.lose("a")
    known = fleet.known(BANK, 1.0)
    assert (set(known.coverage), known.lost) == ({"b"}, {"a"})
    fleet.reach("a")
    assert fleet.known(BANK, 1.0).lost == set()


def test_who_is_no_longer_announced_is_forgotten() -> None:
    fleet = heard({"a": report(1), "b": report(2)})
    fleet.lose("a")
    fleet.keep({"b"})
    known = fleet.known(BANK, 1.0)
    assert (set(known.coverage), known.lost) == ({"b"}, set())
