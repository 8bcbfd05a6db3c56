"""The deployment files can't be run here, so they are held to the settings, the metrics and their own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from core.cli.checks import TORCH
from core.metrics import DistillationMetrics, GatewayMetrics, InferenceMetrics, OrchestratorMetrics
from core.settings import Settings

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
WRITTEN = [
    *sorted(INFRA.glob("*compose*")),
    *sorted(INFRA.glob("Dockerfile*")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
# Read by tests and the CLI's own children, not by a process's settings.
NOT_SETTINGS = re.compile(r"LATENTBANK_(TEST_|STACK_MARK)")


def names_of_settings(model: type[BaseModel] = Settings, prefix: str = "LATENTBANK_") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield f"{prefix}{name.upper()}__"
            yield from names_of_settings(kind, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return loaded


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_setting_that_is_written_down_exists(path: Path) -> None:
    known = set(names_of_settings())
    written = {name for name in re.findall(r"LATENTBANK_[A-Z0-9_]+", path.read_text()) if not NOT_SETTINGS.match(name)}
    assert written <= known | {"LATENTBANK_"}


def test_the_settings_of_the_compose_file_are_valid(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gateway", "orchestrator", "distillation", "inference"):
        for key, value in compose["services"][name]["environment"].items():
            monkeypatch.setenv(key, re.sub(r"\$\{\w+:\?[^}]*\}", "secret", str(value)))
        settings = Settings(_env_file=None)
        assert settings.resolved_database_url.startswith("postgresql://")
        assert settings.resolved_object_url.startswith("s3://")
        assert settings.log_json is True


def test_all_four_processes_and_their_servers_are_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {
        *("gateway", "orchestrator", "distillation", "inference"),
        *("postgres", "redis", "minio", "buckets", "prometheus", "grafana"),
    }
    modules = {name: " ".join(services[name]["command"]) for name in ("gateway", "distillation", "inference")}
    for module in ("python -m gateway", "python -m workers.distillation", "python -m workers.inference"):
        assert any(module in command for command in modules.values())
    for name, service in services.items():
        assert "image" in service, name
        for needed in service.get("depends_on", {}):
            assert needed in services
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (INFRA / source).exists()


def test_every_secret_comes_from_the_environment_and_is_in_the_example(compose: dict[str, Any]) -> None:
    text = (INFRA / "compose.yaml").read_text()
    example = dict(
        line.split("=", 1) for line in (INFRA / "compose.env.example").read_text().splitlines() if "=" in line
    )
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    for service in compose["services"].values():
        environment = service.get("environment", {})
        for name in environment:
            if re.search("PASSWORD|SECRET|TOKEN|ADMIN_KEY|ACCESS_KEY", name):
                assert "${" in environment[name], name


def test_nothing_is_published_beyond_the_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_scrapes_each_process_where_it_listens(compose: dict[str, Any]) -> None:
    settings = Settings(_env_file=None)
    scraped = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    ports = {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in scraped}
    assert ports == {
        "gateway": settings.gateway.port,
        "orchestrator": settings.orchestrator.metrics_port,
        "distillation": settings.distillation.metrics_port,
        "inference": settings.serving.port,
    }
    for job in scraped:
        assert job["dns_sd_configs"][0]["names"] == [job["job_name"]]
        assert str(ports[job["job_name"]]) in str(compose["services"][job["job_name"]]["healthcheck"]["test"])


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    known = set()
    for family in (GatewayMetrics, OrchestratorMetrics, DistillationMetrics, InferenceMetrics):
        for metric in vars(family(CollectorRegistry())).values():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric._type, [""])
            known |= {metric._name + suffix for suffix in suffixes}
    dashboard = json.loads((INFRA / "grafana" / "dashboards" / "latentbank.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    alerts = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    used = {name for expression in asked for name in re.findall(r"\b(?:latentbank_|vllm:|celery_)\w+", expression)}
    assert used <= known
    assert len(used) > 20
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_promtool_accepts_configuration_and_alerts() -> None:
    config = str(INFRA / "prometheus" / "prometheus.yml")
    checked = subprocess.run(["promtool", "check", "config", config], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_alerts_fire_when_they_should_and_not_before() -> None:
    rules = str(INFRA / "prometheus" / "alerts_test.yml")
    tested = subprocess.run(["promtool", "test", "rules", rules], text=True, capture_output=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_that_must_not_be_missed_is_tested() -> None:
    alerts = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    tested = yaml.safe_load((INFRA / "prometheus" / "alerts_test.yml").read_text())
    fired = {
        each["alertname"] for test in tested["tests"] for each in test["alert_rule_test"] if each.get("exp_alerts")
    }
    assert {"JobsWaitLong", "JobsFail", "WorkersGone", "JobsArePoison", "ObjectStoreDown"} <= fired <= names


def test_a_container_is_given_the_time_that_its_process_takes_to_leave(compose: dict[str, Any]) -> None:
    settings = Settings(_env_file=None)
    drain = float(compose["services"]["gateway"]["environment"]["LATENTBANK_GATEWAY__DRAIN_SECONDS"])
    needed = {
        "gateway": drain + settings.gateway.grace_seconds,
        "inference": settings.serving.drain_seconds + settings.serving.grace_seconds,
        "orchestrator": 10.0,
        "distillation": 30.0,
    }
    for name, seconds in needed.items():
        assert float(compose["services"][name]["stop_grace_period"].removesuffix("s")) > seconds, name


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_the_dockerfiles_copy_what_exists_and_is_not_ignored(name: str) -> None:
    text = (INFRA / name).read_text()
    ignored_but = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert {"core", "gateway", "orchestrator", "workers", "requirements.lock"} <= copied <= ignored_but
    assert all((ROOT / each).exists() for each in copied)
    assert "USER latentbank" in text


def test_the_locks_pin_every_dependency_and_torch_as_tested() -> None:
    pinned = {}
    for lock in ("requirements.lock", "requirements-dev.lock", "requirements-nodeps.lock"):
        for line in (ROOT / lock).read_text().splitlines():
            if not line.startswith(("#", "-r ")):
                name, version = line.split("==")
                pinned[name] = version
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[\[<>=]", each)[0] for each in declared} <= set(pinned)
    assert pinned["torch"] == TORCH
    assert not any(name.startswith(("nvidia-", "cuda-", "triton")) for name in pinned)
    assert not any("+" in version for version in pinned.values())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("script", [*INFRA.glob("*.sh"), ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_the_shell_scripts_parse(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
