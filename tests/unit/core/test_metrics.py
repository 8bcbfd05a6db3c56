from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from core.metrics import DistillationMetrics, GatewayMetrics, InferenceMetrics, OrchestratorMetrics
from core.metrics_server import serve_metrics

ROOT = Path(__file__).parents[3]
FAMILIES = {
    "gateway": GatewayMetrics,
    "orchestrator": OrchestratorMetrics,
    "distillation": DistillationMetrics,
    "inference": InferenceMetrics,
}
# Names that serving.md and jobs.md promise to dashboards and autoscalers.
PROMISED = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds",
    "vllm:lora_requests_info",
    "latentbank_adapter_load_seconds",
    "latentbank_adapter_load_failures_total",
    "latentbank_adapter_evictions_total",
    "latentbank_adapter_resident",
    "latentbank_gate_decisions_total",
    "latentbank_gate_seconds",
    "latentbank_gate_score",
    "latentbank_prefix_tokens_reused_total",
    "latentbank_jobs",
    "latentbank_job_seconds",
    "latentbank_job_queue_wait_seconds",
    "latentbank_job_attempts_total",
    "latentbank_pack_jobs",
    "latentbank_pending_device_seconds",
    "celery_tasks_total",
}


def table_of_code() -> list[str]:
    """The rows that docs/metrics.md has to have, in the order of the code."""
    rows = []
    for process, family in FAMILIES.items():
        for metric in vars(family(CollectorRegistry())).values():
            name = metric._name + ("_total" if metric._type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
            rows.append(f"| `{name}` | {metric._type} | {labels} | {process} | {metric._documentation} |")
    return rows


def test_the_documented_table_is_the_code() -> None:
    written = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    assert written == table_of_code()


def test_every_promised_name_is_there() -> None:
    documented = {re.findall("`([^`]+)`", row)[0] for row in table_of_code()}
    assert documented >= PROMISED


def test_vllms_metrics_are_of_vllms_types() -> None:
    types = {
        f"vllm:{name}": kind
        for kind, names in {
            "gauge": ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "lora_requests_info"),
            "counter": (
                "prefix_cache_queries",
                "prefix_cache_hits",
                "prompt_tokens",
                "generation_tokens",
                "request_success",
            ),
            "histogram": ("time_to_first_token_seconds",),
        }.items()
        for name in names
    }
    found = {metric._name: metric._type for metric in vars(InferenceMetrics(CollectorRegistry())).values()}
    assert {name: kind for name, kind in found.items() if name.startswith("vllm:")} == types


@pytest.mark.parametrize("process", FAMILIES)
def test_no_label_could_carry_an_id_or_a_text(process: str) -> None:
    allowed = {"route", "method", "status", "outcome", "state", "kind", "phase", "finished_reason", "source", "stage"}
    allowed |= {"reason", "tier", "max_lora", "running_lora_adapters", "waiting_lora_adapters"}
    for metric in vars(FAMILIES[process](CollectorRegistry())).values():
        assert set(metric._labelnames) <= allowed


@pytest.mark.parametrize("process", FAMILIES)
def test_a_scrape_parses_and_shows_what_was_counted(process: str) -> None:
    registry = CollectorRegistry()
    family = FAMILIES[process](registry)
    for metric in vars(family).values():
        child = metric.labels(*["x"] * len(metric._labelnames)) if metric._labelnames else metric
        record = {"histogram": "observe", "gauge": "set", "counter": "inc"}[metric._type]
        getattr(child, record)(1)
    server = serve_metrics(0, "127.0.0.1", registry)
    try:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics")
    finally:
        server.close()
    scraped = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for metric in vars(family).values():
        assert max(sample.value for sample in scraped[metric._name].samples) >= 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_promtool_finds_no_fault_in_our_names() -> None:
    registry = CollectorRegistry()
    for family in FAMILIES.values():
        family(registry)
    # vLLM's names carry a colon, which promtool keeps for recording rules; they are what they are. prometheus-client
    # adds `_created` samples that promtool does not know either.
    lines = generate_latest(registry).decode().splitlines(keepends=True)
    ours = "".join(line for line in lines if "vllm:" not in line and "_created" not in line)
    checked = subprocess.run(["promtool", "check", "metrics"], input=ours, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_processes_of_one_worker_add_up_in_multiprocess_mode(tmp_path: Path) -> None:
    # A child, because the mode is one of the whole process.
    script = """
import os, sys
from pathlib import Path
from core.metrics import DistillationMetrics, enable_multiprocess, multiprocess_registry
from prometheus_client import CollectorRegistry, generate_latest
directory = Path(sys.argv[1])
enable_multiprocess(directory)
metrics = DistillationMetrics(CollectorRegistry())
metrics.attempts.labels("succeeded").inc()
child = os.fork()
if child == 0:
    metrics.attempts.labels("succeeded").inc(2)
    metrics.group_up.set(1)
    os._exit(0)
os.waitpid(child, 0)
print(generate_latest(multiprocess_registry(directory)).decode())
"""
    command = [sys.executable, "-c", script, str(tmp_path / "metrics")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    assert 'latentbank_job_attempts_total{outcome="succeeded"} 3.0' in done.stdout
    assert "latentbank_trainer_group_up 1.0" in done.stdout
