from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from core.logs import bind, configure_logs, get_logger
from core.redaction import REDACTED
from core.settings import Settings


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logs("gateway", Settings(log_json=True))
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_a_line_carries_process_ids_and_fields(lines: Any) -> None:
    with bind(request_id="req_1", job_id=None, tenant_id="tenant_1"):
        get_logger("jobs").info("claimed", epoch=3)
    get_logger("jobs").info("after")
    first, second = lines()
    assert first["event"] == "claimed"
    assert (first["process"], first["request_id"], first["tenant_id"], first["epoch"]) == (
        "gateway",
        "req_1",
        "tenant_1",
        3,
    )
    assert "job_id" not in first
    assert "request_id" not in second


def test_keys_and_texts_never_reach_a_line(lines: Any) -> None:
    key = "lb_" + "a" * 26
    get_logger("x").info(
        f"bad key {key}",
        api_key=key,
        secret_thing="s3cret-value",
        text="the context",
        nested={"messages": ["the context"], "headers": [f"Bearer {key}"]},
    )
    try:
        raise ValueError(f"no tenant has {key}")
    except ValueError:
        get_logger("x").exception("failed")
    written = json.dumps(lines())
    assert key not in written
    assert "the context" not in written
    assert "s3cret" not in written
    assert REDACTED in written


def test_records_of_libraries_come_out_in_the_same_form(lines: Any) -> None:
    logging.getLogger("uvicorn.error").info("started %s", "well")
    logging.getLogger("httpx").info("HTTP Request: GET /secret")
    (only,) = lines()
    assert (only["event"], only["logger"], only["level"]) == ("started well", "uvicorn.error", "info")


def test_the_level_of_the_settings_counts(lines: Any) -> None:
    configure_logs("gateway", Settings(log_json=True, log_level="warning"))
    get_logger("x").info("quiet")
    get_logger("x").warning("loud")
    assert [line["event"] for line in lines()] == ["loud"]
