from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.inference.tiers.segmented_lru import PROTECTED_SHARE, SegmentedLru


def order(capacity: int, used: str) -> str:
    lru = SegmentedLru(capacity)
    for key in used:
        lru.use(key)
    return "".join(lru)


def test_what_was_used_once_goes_before_what_was_used_again_however_long_ago() -> None:
    assert order(10, "aabcd") == "bcda"


def test_among_those_used_alike_the_least_recent_goes_first() -> None:
    assert order(10, "abcabac") == "bac"


def test_old_habits_are_forgotten_for_new_ones() -> None:
    # Room for 4 protected: the fifth sends the least recent back to probation, behind which newcomers wait.
    assert order(5, "aabbccddee") == "abcde"
    assert order(5, "aabbccddeef") == "afbcde"


def test_what_is_removed_begins_anew() -> None:
    lru = SegmentedLru(10)
    for key in "aab":
        lru.use(key)
    lru.remove("a")
    lru.use("a")
    assert (list(lru), len(lru), "a" in lru, "c" in lru) == (["b", "a"], 2, True, False)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"))), st.integers(1, 12))
def test_every_key_is_there_once_and_the_protected_keep_to_their_share(
    steps: list[tuple[bool, str]], capacity: int
) -> None:
    lru, sizes = SegmentedLru(capacity), {key: size for size, key in enumerate("abcdef", start=1)}
    there: set[str] = set()
    for use, key in steps:
        if use:
            lru.use(key, sizes[key])
            there.add(key)
        elif key in there:
            lru.remove(key)
            there.remove(key)
        assert sorted(lru) == sorted(there)
        assert sum(lru._protected.values()) == lru._protected_size <= capacity * PROTECTED_SHARE
