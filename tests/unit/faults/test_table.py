from __future__ import annotations

import re
from pathlib import Path

from tests.faults.points import POINTS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "faults.md").read_text()


def test_the_tests_that_the_table_of_faults_names_are_there_and_every_test_of_a_fault_is_in_it() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    everywhere, of_faults = _tests_below(ROOT / "tests"), _tests_below(ROOT / "tests" / "faults")
    assert named - everywhere == set()
    assert of_faults - named == {"test_a_seed_always_draws_the_same_schedule"}


def test_the_page_counts_the_points_right() -> None:
    assert f"names {len(POINTS)} places" in PAGE


def _tests_below(directory: Path) -> set[str]:
    texts = (path.read_text() for path in directory.rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}
