from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.inference.tiers.slots import SlotTable


def test_the_least_recently_taken_idle_digest_makes_room() -> None:
    table = SlotTable(3)
    for digest in ("a", "b"):
        table.take([digest])
        table.give_back(digest)
    table.take(["a"])
    table.give_back("a")
    placement = table.take(["c"])
    assert placement is not None
    assert placement.evicted == ("b",)
    assert set(table.digests) == {"a", "c"}


def test_what_was_taken_again_outlasts_many_that_were_taken_once() -> None:
    table = SlotTable(4)
    for digest in ("often", "often", "b", "c", "d", "e", "f"):
        table.take([digest])
        table.give_back(digest)
    assert table.slot_of("often") is not None


def test_a_pinned_digest_is_not_evicted_and_what_needs_its_slot_does_not_fit() -> None:
    table = SlotTable(3)
    for digest in ("a", "b"):
        table.take([digest])
        table.give_back(digest)
    placement = table.take(["c"], pinned={"a"})
    assert placement is not None
    assert placement.evicted == ("b",)
    assert table.take(["d"], pinned={"a"}) is None


def test_what_does_not_fit_changes_nothing() -> None:
    table = SlotTable(3)
    table.take(["a"])
    before = table.digests, table.references("a")
    assert table.take(["b", "c"]) is None
    assert (table.digests, table.references("a")) == before
    assert table.take(["a", "b"]) is not None


def test_a_dropped_digest_in_use_goes_with_its_last_reference() -> None:
    table = SlotTable(2)
    first, second = table.take(["a"]), table.take(["a"])
    assert first is not None
    assert second is not None
    assert table.drop("a") is None
    assert table.give_back("a") is None
    assert table.slot_of("a") == first.slots["a"]
    assert table.give_back("a") == first.slots["a"]
    assert table.slot_of("a") is None


def test_a_dropped_digest_stays_doomed_though_it_is_taken_again() -> None:
    table = SlotTable(2)
    table.take(["a"])
    table.drop("a")
    table.take(["a"])
    table.give_back("a")
    assert table.give_back("a") is not None


@given(
    st.lists(st.tuples(st.sampled_from(["take", "give", "drop"]), st.sets(st.sampled_from("abcdef"), min_size=1))),
    st.sets(st.sampled_from("abcdef"), max_size=2),
)
def test_a_digest_in_use_never_leaves_its_slot_and_no_slot_is_held_twice(
    steps: list[tuple[str, set[str]]], pinned: set[str]
) -> None:
    table = SlotTable(4)
    in_use: dict[str, list[int]] = {}
    for action, digests in steps:
        if action == "take" and (placement := table.take(sorted(digests), pinned)) is not None:
            assert not pinned & set(placement.evicted)
            for digest, slot in placement.slots.items():
                in_use.setdefault(digest, []).append(slot)
        elif action == "give":
            for digest in digests & set(in_use):
                table.give_back(digest)
                in_use[digest].pop()
                if not in_use[digest]:
                    del in_use[digest]
        elif action == "drop":
            for digest in digests:
                table.drop(digest)
        for digest, slots in in_use.items():
            assert {table.slot_of(digest)} == set(slots)
        held = [table.slot_of(digest) for digest in table.digests]
        assert len(set(held)) == len(held) <= table.capacity == 3
        assert 0 not in held
