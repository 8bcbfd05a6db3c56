from __future__ import annotations

import pytest

from tests.benchmarks.scoring import right


@pytest.mark.parametrize("answer", ["It is the River Tessle.", "river  tessle", "The Tessle, a river"])
def test_an_accepted_answer_counts_wherever_it_stands(answer: str) -> None:
    assert right(answer, ("the River Tessle", "Tessle"))


def test_a_number_is_not_found_within_another() -> None:
    assert right("about 6,140 people", ["6140"])
    assert not right("415", ["41"])
