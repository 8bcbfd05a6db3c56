from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.configuration import PROCESSES, contradictions, doubts, is_loopback, known_names, read_settings, unknown
from core.errors import Misconfigured
from core.settings import Settings

TOKEN = "a-long-random-text"
OFF_LOOPBACK = {"serving": {"host": "0.0.0.0", "advertise_url": "http://worker:8081"}}


def made(**fields: Any) -> Settings:
    return Settings(_env_file=None, **fields)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the machine has set: only what a test sets counts."""
    for name in list(known_names()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LATENTBANK_GATEWAY__PROT", "did you mean LATENTBANK_GATEWAY__PORT?"),
        ("LATENTBANK_GATEWAY_PORT", "did you mean LATENTBANK_GATEWAY__PORT?"),
        ("LATENTBANK_DATABASEURL", "did you mean LATENTBANK_DATABASE_URL?"),
        ("LATENTBANK_JOBS__LEASE_SECOND", "did you mean LATENTBANK_JOBS__LEASE_SECONDS?"),
        ("latentbank_admin_kye", "did you mean LATENTBANK_ADMIN_KEY?"),
        ("LATENTBANK_Q", "remove it"),
    ],
)
def test_a_name_that_is_no_setting_is_refused_with_the_nearest_that_is(name: str, hint: str) -> None:
    (sentence,) = unknown([name, "PATH", "LATENTBANK_DATA_DIR"])
    assert sentence.startswith(f"{name} is no setting; ")
    assert hint in sentence


def test_settings_groups_and_what_tests_and_the_command_line_read_are_known() -> None:
    names = [
        "LATENTBANK_JOBS",
        "LATENTBANK_STACK_MARK",
        "LATENTBANK_TEST_S3_ENDPOINT",
        "latentbank_data_dir",
        *known_names(),
    ]
    assert unknown(names) == []


def test_a_wrong_name_in_the_env_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LATENTBANK_LOG_LEVLE=DEBUG\nOTHER=1\n")
    with pytest.raises(Misconfigured, match="LATENTBANK_LOG_LEVLE is no setting; did you mean LATENTBANK_LOG_LEVEL"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LATENTBANK_JOBS__LEASE_SECONDS", "soon"),
        ("LATENTBANK_JOBS__HEARTBEAT_SECONDS", "0"),
        ("LATENTBANK_JOBS__MAX_ATTEMPTS", "0"),
        ("LATENTBANK_GATEWAY__PORT", "808080"),
        ("LATENTBANK_GATEWAY__DRAIN_SECONDS", "-1"),
        ("LATENTBANK_SERVING__SLOTS", "1"),
        ("LATENTBANK_WORKER_TTL_SECONDS", "-3"),
        ("LATENTBANK_MIGRATE_AT_START", "perhaps"),
        ("LATENTBANK_STORAGE__CHECKSUMS", "always"),
    ],
)
def test_a_value_of_the_wrong_kind_or_range_is_refused_by_its_variable_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured) as problem:
        read_settings()
    assert problem.value.message.startswith(f"{name}: ")


def test_the_value_of_a_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBANK_ADMIN_KEY", "planted-secret")
    monkeypatch.setenv("LATENTBANK_JOBS__LEASE_SECONDS", "another-planted-secret")
    with pytest.raises(Misconfigured) as problem:
        read_settings()
    assert "planted-secret" not in problem.value.message


def test_several_values_have_to_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBANK_RECIPE__TARGETS", "gate_proj,up_proj")
    with pytest.raises(Misconfigured, match="JSON"):
        read_settings()
    monkeypatch.setenv("LATENTBANK_RECIPE__TARGETS", '["gate_proj"]')
    assert read_settings().recipe.targets == ("gate_proj",)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_defaults_hold_for_every_process(process: Any) -> None:
    assert contradictions(made(internal_token=TOKEN), process) == []
    assert doubts(made()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"database_url": "mysql://x/y"}, "LATENTBANK_DATABASE_URL has to begin with postgresql://"),
        ({"database_url": "localhost:5432/db"}, "LATENTBANK_DATABASE_URL has to begin with postgresql://"),
        ({"broker_url": "kafka://x"}, "LATENTBANK_BROKER_URL has to begin with redis://"),
        ({"broker_url": "localhost:6379"}, "LATENTBANK_BROKER_URL has to begin with redis://"),
        ({"storage": {"url": "gs://bucket"}}, "LATENTBANK_STORAGE__URL has to be s3://bucket/prefix"),
        ({"storage": {"url": "s3:///prefix"}}, "LATENTBANK_STORAGE__URL has to be s3://bucket/prefix"),
        ({"storage": {"url": "/srv/objects"}}, "LATENTBANK_STORAGE__URL has to be s3://bucket/prefix"),
        (
            {"storage": {"url": "s3://b", "endpoint": "minio:9000"}},
            "LATENTBANK_STORAGE__ENDPOINT has to begin with http",
        ),
        ({"storage": {"url": "s3://b", "access_key": "a"}}, "go together; set both or none"),
        ({"jobs": {"lease_seconds": 10, "heartbeat_seconds": 6}}, "has to be at most half of"),
        ({"log_level": "LOUD"}, "LATENTBANK_LOG_LEVEL has to be"),
    ],
)
@pytest.mark.parametrize("process", PROCESSES)
def test_what_all_processes_share_is_refused_by_all(process: Any, fields: dict[str, Any], sentence: str) -> None:
    found = contradictions(made(internal_token=TOKEN, **fields), process)
    assert [sentence in each for each in found] == [True], found


@pytest.mark.parametrize(
    ("process", "fields", "sentence"),
    [
        ("gateway", {"gateway": {"host": "0.0.0.0"}, "internal_token": TOKEN}, "LATENTBANK_ADMIN_KEY is not set"),
        (
            "gateway",
            {"gateway": {"host": "10.0.0.1"}, "admin_key": "", "internal_token": TOKEN},
            "LATENTBANK_ADMIN_KEY",
        ),
        ("gateway", {"gateway": {"host": "::"}, "admin_key": TOKEN}, "LATENTBANK_INTERNAL_TOKEN is not set"),
        ("inference", {}, "LATENTBANK_INTERNAL_TOKEN is not set"),
        ("inference", {"internal_token": ""}, "LATENTBANK_INTERNAL_TOKEN is not set"),
        ("inference", {"internal_token": TOKEN, "serving": {"admin_port": 1}}, "no LATENTBANK_ADMIN_KEY"),
        ("inference", {"internal_token": TOKEN, "serving": {"host": "0.0.0.0"}}, "LATENTBANK_SERVING__ADVERTISE_URL"),
        ("inference", {"internal_token": TOKEN, "serving": {"advertise_url": "worker:1"}}, "has to begin with http://"),
        ("inference", {"internal_token": "15-bytes-of-it.", **OFF_LOOPBACK}, "LATENTBANK_INTERNAL_TOKEN is shorter"),
        (
            "inference",
            {"internal_token": TOKEN, "internal_token_also": "short", **OFF_LOOPBACK},
            "LATENTBANK_INTERNAL_TOKEN_ALSO is shorter than 16 characters",
        ),
        ("inference", {"internal_token": TOKEN, "serving": {"tls_key": __file__}}, "without LATENTBANK_SERVING__TLS_C"),
        ("inference", {"internal_token": TOKEN, "serving": {"tls_cert": "/no.pem"}}, "TLS_CERT names no file: /no.pem"),
        ("distillation", {"distillation": {"deepspeed_config": "/no/such.json"}}, "names no file: /no/such.json"),
    ],
)
def test_what_one_process_needs_is_refused_by_it_alone(process: Any, fields: dict[str, Any], sentence: str) -> None:
    settings = made(**fields)
    found = contradictions(settings, process)
    assert [sentence in each for each in found] == [True], found
    assert contradictions(settings, "orchestrator") == []


@pytest.mark.parametrize(
    ("token", "host"), [("short", "127.0.0.1"), ("short", "localhost"), ("16-bytes-of-it..", "10.0.0.1"), (TOKEN, "w")]
)
def test_a_token_is_long_enough_where_nobody_else_can_try_it(token: str, host: str) -> None:
    assert contradictions(made(internal_token=token, serving={"host": host}), "inference") == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"jobs": {"garbage_margin_seconds": 5}}, "GARBAGE_MARGIN"),
        ({"jobs": {"doorbell_timeout_seconds": 0.5}}, "DOORBELL_TIMEOUT"),
        ({"gateway": {"worker_list_seconds": 10}}, "still send questions"),
    ],
)
def test_what_is_hardly_meant_is_told(fields: dict[str, Any], sentence: str) -> None:
    settings = made(internal_token=TOKEN, **fields)
    assert [sentence in each for each in doubts(settings)] == [True]
    assert contradictions(settings, "gateway") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_hosts_that_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "gateway", "2001:db8::1"])
def test_hosts_that_others_reach(host: str) -> None:
    assert not is_loopback(host)
