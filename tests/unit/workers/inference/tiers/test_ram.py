from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from core.adapters.peft_format import LoadedAdapter
from workers.inference.tiers.ram import RamTier


def adapter(size: int) -> LoadedAdapter:
    """One of `size` bytes."""
    weights = {"layer": (torch.zeros(size, dtype=torch.uint8), torch.zeros(0))}
    return LoadedAdapter(weights, 1.0, 1, ("layer",), (1,))


def test_the_budget_is_in_bytes_whatever_the_number() -> None:
    ram = RamTier(100)
    assert [ram.put(name, adapter(30), ()) for name in "abc"] == [(), (), ()]
    assert ram.put("d", adapter(50), ()) == ("a", "b")
    assert (ram.digests, ram.nbytes, len(ram)) == (("c", "d"), 80, 2)


def test_an_adapter_larger_than_the_budget_is_not_kept_and_pushes_out_nobody() -> None:
    ram = RamTier(100)
    ram.put("small", adapter(60), ())
    assert ram.put("large", adapter(101), ()) == ()
    assert ram.get("large") is None
    assert ram.digests == ("small",)
    assert RamTier(0).put("any", adapter(1), ()) == ()


def test_what_is_asked_for_often_outlasts_a_crowd_that_is_asked_for_once() -> None:
    ram = RamTier(100)
    ram.put("often", adapter(20), ())
    assert ram.get("often") is not None
    for name in range(50):
        ram.put(str(name), adapter(20), ())
    assert ram.get("often") is not None


def test_a_pinned_adapter_stays_and_what_does_not_fit_beside_it_is_not_kept() -> None:
    ram = RamTier(100)
    ram.put("pinned", adapter(60), {"pinned"})
    ram.put("other", adapter(40), {"pinned"})
    assert ram.put("large", adapter(50), {"pinned"}) == ()
    assert ram.digests == ("pinned", "other")
    assert ram.put("next", adapter(40), {"pinned"}) == ("other",)


@given(
    st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), st.sampled_from("abcdef"))),
    st.integers(0, 12),
    st.sets(st.sampled_from("abcdef"), max_size=2),
)
def test_no_sequence_exceeds_the_budget_or_evicts_what_is_pinned(
    steps: list[tuple[str, str]], budget: int, pinned: set[str]
) -> None:
    ram, sizes = RamTier(budget), {name: size for size, name in enumerate("abcdef", start=1)}
    for action, name in steps:
        if action == "put":
            assert not pinned & set(ram.put(name, adapter(sizes[name]), pinned))
        elif action == "get":
            found = ram.get(name)
            assert (found is not None) == (name in ram.digests)
        else:
            ram.drop(name)
        assert ram.nbytes == sum(sizes[one] for one in ram.digests) <= budget
