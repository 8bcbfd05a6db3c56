from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.adapters.files import CALIBRATION_FILE
from core.errors import AdapterInvalid
from core.gate.features import FEATURES
from core.gate.samples import count_by_kind, load_samples, save_samples
from tests.unit.core.gate.examples import memory, samples

ROW = [0.0] * len(FEATURES)


def test_samples_survive_the_disk(tmp_path: Path) -> None:
    for made in (memory(1), []):
        save_samples(tmp_path, made)
        assert load_samples(tmp_path) == tuple(made)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        {"features": ["dense"], "samples": []},
        {"features": [*FEATURES][::-1], "samples": []},
        {"features": [*FEATURES], "samples": [["alien", *ROW]]},
        {"features": [*FEATURES], "samples": [["own", 1.0]]},
        {"features": [*FEATURES], "samples": [["own", *ROW[1:], "much"]]},
        {"features": [*FEATURES], "samples": [["own", *ROW[1:], float("nan")]]},
        {"features": [*FEATURES], "samples": [[["own"], *ROW]]},
        {"features": [*FEATURES], "samples": [[]]},
    ],
)
def test_an_odd_file_is_refused(tmp_path: Path, fields: object) -> None:
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps(fields))
    with pytest.raises(AdapterInvalid, match="calibration"):
        load_samples(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match="calibration"):
        load_samples(tmp_path)


def test_kinds_that_are_not_there_are_counted_as_none() -> None:
    assert count_by_kind(samples("own", 2)) == {"own": 2, "near_miss": 0, "unrelated": 0, "wrong_adapter": 0}
