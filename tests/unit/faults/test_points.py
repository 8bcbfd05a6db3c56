from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.points import POINTS, Ordered, Orders, _wrapped


@pytest.mark.parametrize("part", ["gateway", "orchestrator", "distillation", "inference"])
def test_every_point_names_a_function_that_is_there(part: str) -> None:
    """In a process of its own: no process of the product imports all of them."""
    ask = (
        "from tests.faults.points import POINTS, resolve\n"
        + f"[resolve(p) for p in POINTS.values() if p.part == {part!r}]"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any(point.part == part for point in POINTS.values())


def test_an_order_is_carried_out_once_and_only_at_its_point(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    here, there = (_wrapped(lambda: 1, name, "before", orders) for name in ("claim: committed", "run: requested"))
    orders.give("claim: committed", "raise")
    assert there() == 1
    with pytest.raises(Ordered, match="claim: committed"):
        here()
    assert here() == 1
    assert len(orders.taken("claim: committed")) == 1


def test_after_its_function_means_after_what_it_did(tmp_path: Path) -> None:
    orders, done = Orders(tmp_path), []
    orders.give("run: requested", "raise")
    with pytest.raises(Ordered):
        _wrapped(lambda: done.append(1), "run: requested", "after", orders)()
    assert done == [1]
