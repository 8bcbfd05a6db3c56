from __future__ import annotations

from typing import Any

from infra.audit import Outcome, judge

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages), "fixes": []}


def test_a_vulnerability_is_named_with_what_mends_it() -> None:
    found = judge(
        report({"name": "a", "version": "1.0", "vulns": [FLAW]}, {"name": "b", "version": "1", "vulns": []}), {}
    )
    assert found == Outcome(2, (), ("a 1.0: PYSEC-1, fixed in 2.0",))


def test_one_that_is_ignored_by_any_of_its_names_does_not_count() -> None:
    packages = report({"name": "a", "version": "1.0", "vulns": [FLAW, {**FLAW, "id": "PYSEC-2", "aliases": []}]})
    assert [line.split(":")[1].split(",")[0] for line in judge(packages, {"CVE-1": "…"}).found] == [" PYSEC-2"]


def test_what_the_service_does_not_know_is_not_called_audited() -> None:
    packages = report({"name": "a", "skip_reason": "not found"}, {"name": "b", "version": "1", "vulns": []})
    assert judge(packages, {}) == Outcome(1, ("a",), ())
