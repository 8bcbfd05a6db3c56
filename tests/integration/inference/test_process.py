"""The worker as a process: ready, announced, measured, stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from core.base_model.description import BaseDescription
from core.internal import proven
from core.residency import RESIDENCY_PATH
from core.retrieval.encoder import Encoder
from core.truth.workers import alive
from tests.fixtures.internal import secrets_from
from tests.integration.inference.conftest import TOKEN, RunningWorker, start_worker


def test_a_worker_is_ready_only_with_its_base_and_says_goodbye(
    tmp_path: Path, tiny_base: BaseDescription, encoder: Encoder
) -> None:
    running = start_worker(tmp_path, tiny_base, encoder)
    seen = []
    while 200 not in seen:
        assert running.process.poll() is None, running.log.read_text()
        try:
            assert httpx.get(f"{running.url}/health", timeout=5).status_code == 200
            seen.append(httpx.get(f"{running.url}/ready", timeout=5).status_code)
        except httpx.TransportError:
            time.sleep(0.05)
    assert set(seen) == {503, 200}
    assert _announced(running) is not None
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    with running.database.read() as connection:
        assert alive(connection, "inference") == []
    running.database.dispose()


def test_a_worker_that_is_to_end_finishes_what_it_has_begun(
    tmp_path: Path, tiny_base: BaseDescription, encoder: Encoder
) -> None:
    running = start_worker(tmp_path, tiny_base, encoder)
    running.await_ready()
    question = {"model": tiny_base.name, "prompt": "Tell me", "max_tokens": 300, "stream": True}
    with (
        running.http(running.publisher.tenant()) as http,
        http.stream("POST", "/v1/completions", json=question) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        running.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2].replace(" ", "") or '"finish_reason":"stop"' in rest[-2].replace(
        " ", ""
    )
    assert running.process.wait(timeout=30) == 0
    running.database.dispose()


def test_a_worker_that_is_to_end_is_withdrawn_first_and_answers_until_everybody_knows(
    tmp_path: Path, tiny_base: BaseDescription, encoder: Encoder
) -> None:
    running = start_worker(tmp_path, tiny_base, encoder, LATENTBANK_SERVING__DRAIN_SECONDS="600")
    running.await_ready()
    until = time.monotonic() + 30
    while _announced(running) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    known = running.id
    running.process.send_signal(signal.SIGTERM)
    while _announced(running) is not None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert httpx.get(f"{running.url}/ready", timeout=5).status_code == 503
    question = {"model": tiny_base.name, "prompt": "Tell me", "max_tokens": 4}
    with running.http(running.publisher.tenant(), known) as http:
        assert http.post("/v1/completions", json=question).status_code == 200
    assert _announced(running) is None, "it does not announce itself again"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    running.database.dispose()


def test_a_worker_renews_its_announcement(worker: RunningWorker, tiny_base: BaseDescription) -> None:
    first = _announced(worker)
    assert first is not None
    until = time.monotonic() + 10
    while time.monotonic() < until and (now := _announced(worker)) is not None and now == first:
        time.sleep(0.1)
    assert _announced(worker) not in (None, first)
    with worker.database.read() as connection:
        record = alive(connection, "inference")[0]
    assert record.url == worker.url
    assert record.info.items() >= {"base_digest": tiny_base.digest, "name": tiny_base.name}.items()
    assert proven(secrets_from(TOKEN), record.id, record.url, record.info)


def test_a_worker_tells_its_gateway_what_it_holds_and_nobody_else(
    worker: RunningWorker, tiny_base: BaseDescription
) -> None:
    tenant = worker.publisher.tenant()
    entry = worker.publisher.publish(tenant, "Sark", "Sark has no cars.", seed=4)
    question = {"model": entry.memory_id, "messages": [{"role": "user", "content": "Has Sark cars?"}], "max_tokens": 2}
    with worker.http(tenant) as http:
        assert http.post("/v1/chat/completions", json=question).status_code == 200
        report = http.get(RESIDENCY_PATH).json()
        while report["running"]:
            # The answer is sent a moment before its row is gone.
            report = http.get(RESIDENCY_PATH).json()
    assert all(entry.adapter_digest in report[tier] for tier in ("slot", "ram", "node_cache"))
    assert (report["running"], report["waiting"], report["capacity"]) == (0, 0, 16)
    assert httpx.get(f"{worker.url}{RESIDENCY_PATH}").status_code == 401


def test_metrics_are_valid_and_carry_no_id_and_no_text(worker: RunningWorker, tiny_base: BaseDescription) -> None:
    tenant = worker.publisher.tenant()
    entry = worker.publisher.publish(tenant, "Zanzibar", "Zanzibar exports cloves.", seed=3)
    question = {"model": tiny_base.name, "messages": [{"role": "user", "content": "Does Zanzibar export cloves?"}]}
    with worker.http(tenant) as http:
        assert http.post("/v1/chat/completions", json={**question, "max_tokens": 4}).status_code == 200
    text = worker.metrics()
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "vllm:num_requests_running",
        "vllm:prompt_tokens",
        "vllm:time_to_first_token_seconds",
        "vllm:lora_requests_info",
        "latentbank_gate_decisions",
        "latentbank_adapter_load_seconds",
        "latentbank_adapter_resident",
        "latentbank_adapter_budget_bytes",
    } <= families
    log = worker.log.read_text()
    assert "budgets in bytes" in log
    for secret in (tenant, entry.memory_id, entry.adapter_digest, "Zanzibar"):
        assert secret not in text
    assert "Zanzibar" not in log


def test_without_an_internal_token_a_worker_refuses_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers.inference"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LATENTBANK_DATA_DIR": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"LATENTBANK_INTERNAL_TOKEN" in done.stderr


def _announced(worker: RunningWorker) -> object:
    with worker.database.read() as connection:
        records = alive(connection, "inference")
    return records[0].expires_at if records else None
