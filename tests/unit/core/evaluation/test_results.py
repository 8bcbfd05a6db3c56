from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.evaluation.features_file import write_features
from core.evaluation.judging import NAMES
from core.evaluation.records import Made, Outcome, Served
from core.evaluation.report import report_of, write_report
from core.evaluation.results import results_of, write_json
from tests.unit.core.evaluation.examples import judgement, made, record

KEYS = {
    "accuracy": {"no_memory", "full_context", "rag", "wrong_adapter", "oracle", "routed"},
    "f1": {"no_memory", "full_context", "rag", "wrong_adapter", "oracle", "routed"},
    "retention": {"oracle", "routed"},
    "gate": {
        "auroc_unrelated",
        "auroc_near_miss",
        "auroc_wrong_adapter",
        "balanced_accuracy",
        "false_activation_rate",
        "general_loss_points",
        "entropy_baseline_auroc",
    },
    "routing": {"recall_at_1", "recall_at_k", "chosen_right"},
    "cost": {"seconds_per_memory", "seconds_by_phase", "bytes_per_memory", "kv_bytes_of_text", "peak_rss_bytes"},
    "latency": {"routed_ttft_ms", "rag_ttft_ms"},
}


def outcome() -> Outcome:
    failed = Made(made("d").document, "mem_d", False, "The | job | failed.", 100.0, 110.0)
    return Outcome(
        (
            record("1"),
            record("2", document="b", type_="multi", chosen=()),
            record("3", document="c", oracle="granite"),
            record("4", role="near_miss", chosen=()),
            record("5", role="general", chosen=()),
            record("6", role="cross"),
        ),
        (
            judgement("1", "own", 0.9),
            judgement("1", "wrong", 0.2, document="b", rank=1),
            judgement("2", "own", 0.4, document="b"),
            judgement("4", "near_miss", 0.3),
            judgement("5", "general", 0.1),
        ),
        (made("a"), made("b", words=200), made("c", kind="chat"), failed),
        (Served("1", "slate", 10, 100, 20),),
        123,
    )


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return results_of(outcome(), suite="dev", seed=0, settings={"recipe": {"rank": 8}}, versions={"torch": "2"})


def test_the_json_has_the_keys_of_the_issue_as_plain_numbers(results: dict[str, Any]) -> None:
    for section, keys in KEYS.items():
        assert keys <= set(results[section])
        for key in keys - {"seconds_by_phase"}:
            assert results[section][key] is None or isinstance(results[section][key], int | float)
    assert results["accuracy"]["oracle"] == pytest.approx(2 / 3)


def test_intervals_stand_under_the_same_paths(results: dict[str, Any]) -> None:
    for section in KEYS.keys() - {"cost"}:
        assert set(results["intervals"][section]) == set(results[section])
    figure = results["intervals"]["accuracy"]["oracle"]
    assert figure["value"] == results["accuracy"]["oracle"]
    assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
    assert figure["n"] == 3


def test_accuracy_is_broken_down_by_type_and_by_length(results: dict[str, Any]) -> None:
    assert {name: group["n"] for name, group in results["by_type"].items()} == {"direct": 2, "multi": 1, "cross": 1}
    assert {name: group["n"] for name, group in results["by_length"].items()} == {"short": 1, "long": 1, "chat": 1}
    assert results["by_length"]["chat"]["oracle"] == 0.0


def test_every_document_and_every_answer_is_listed(results: dict[str, Any]) -> None:
    assert [one["id"] for one in results["documents"]] == ["a", "b", "c", "d"]
    assert results["documents"][2] | {"oracle_right": 0, "full_context_right": 1} == results["documents"][2]
    assert results["documents"][3]["problem"] == "The | job | failed."
    assert (results["documents"][0]["seconds"], results["documents"][0]["seconds_waited"]) == (25.0, 5.0)
    first = results["answers"][0]
    assert first["conditions"]["oracle"] == {"answer": "slate", "right": True, "f1": 1.0}
    assert [(score["document"], score["kind"]) for score in first["scores"]] == [("a", "own"), ("b", "wrong")]


def test_the_json_is_written_whole_or_not_at_all(tmp_path: Path, results: dict[str, Any]) -> None:
    file = tmp_path / "deep" / "out.json"
    write_json(file, results)
    assert json.loads(file.read_text()) == json.loads(json.dumps(results))
    with pytest.raises(ValueError):
        write_json(file, {"value": float("nan")})
    assert json.loads(file.read_text())["suite"]["name"] == "dev"


def test_the_report_shows_tables_and_plots(tmp_path: Path, results: dict[str, Any]) -> None:
    of = outcome()
    write_report(tmp_path / "out.md", results, of.judgements, of.made)
    text = (tmp_path / "out.md").read_text()
    assert "| oracle | 0.667 (" in text
    assert "**Memories that failed: 1**" in text
    assert "The \\| job \\| failed." in text
    for name in ("accuracy", "gate-roc", "gate-reliability", "losses"):
        assert f"](out-{name}.png)" in text
        assert (tmp_path / f"out-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_is_not_defined_is_a_dash(results: dict[str, Any]) -> None:
    bare = results_of(
        Outcome((record("1"),), (), (made("a"),), (), None), suite="one", seed=0, settings={}, versions={}
    )
    assert bare["gate"]["auroc_near_miss"] is None
    assert "| auroc_near_miss | – | 0 |" in report_of(bare)


def test_the_features_of_all_pairs_can_be_read_without_pickle(tmp_path: Path) -> None:
    judgements = outcome().judgements
    write_features(tmp_path / "features.npz", judgements)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as found:
        assert tuple(found["names"]) == NAMES
        assert found["features"].shape == (5, len(NAMES))
        assert found["kind"].tolist() == ["own", "wrong", "own", "near_miss", "general"]
        assert found["memory_id"].tolist() == ["a", "b", "b", "a", "a"]
        assert found["rank"].tolist() == [0, 1, 0, 0, 0]
