from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.cli.client import Api, ApiError, GatewayAway, NoKey, gateway_url, key_files, open_admin_api, open_api
from core.cli.keys import API_KEY
from core.cli.stack_file import RunningStack, owning, read_stack_file, write_stack_file
from core.errors import Conflict
from core.settings import Settings
from tests.unit.core.cli.gateway_double import GatewayDouble


@pytest.fixture
def gateway() -> Iterator[GatewayDouble]:
    with GatewayDouble(keys={"lb_harbour": "harbour"}) as double:
        yield double


def test_lists_are_followed_to_their_last_page(gateway: GatewayDouble) -> None:
    with Api(gateway.url, "lb_harbour") as api:
        for number in range(5):
            api.remember({"title": f"memory {number}", "text": "words"})
        assert [memory["id"] for memory in api.memories()] == [f"mem_{number}" for number in range(5)]


def test_an_error_has_the_gateways_own_words(gateway: GatewayDouble) -> None:
    with Api(gateway.url, "lb_harbour") as api, pytest.raises(ApiError, match="nothing with that id") as caught:
        api.memory("mem_of_someone_else")
    assert (caught.value.answered_status, caught.value.answered_code) == (404, "not_found")


def test_a_full_backlog_says_when_to_come_back() -> None:
    def full(_: httpx.Request) -> httpx.Response:
        error = {"error": {"message": "Too many jobs are waiting.", "code": "backlog_full"}}
        return httpx.Response(429, json=error, headers={"retry-after": "30"})

    with (
        Api("http://gateway", "key", transport=httpx.MockTransport(full)) as api,
        pytest.raises(ApiError, match=r"Too many jobs are waiting\. Try again in 30 s\."),
    ):
        api.remember({"title": "t", "text": "x"})


def test_an_error_without_our_shape_is_named_by_its_status() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>bad gateway</html>"))
    with Api("http://gateway", "key", transport=transport) as api, pytest.raises(ApiError, match="answered 502"):
        api.models()


def test_no_gateway_says_how_to_start_one() -> None:
    with Api("http://127.0.0.1:9", "key") as api, pytest.raises(GatewayAway, match="latentbank up"):
        api.models()


def test_something_else_on_the_port_is_not_taken_for_a_gateway() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>hello</html>"))
    with Api("http://gateway", "key", transport=transport) as api, pytest.raises(GatewayAway, match="not LatentBank"):
        api.models()


def test_without_a_key_the_message_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NoKey, match="latentbank up"):
        open_api(Settings(data_dir=tmp_path))
    with pytest.raises(NoKey, match="LATENTBANK_ADMIN_KEY"):
        open_admin_api(Settings(data_dir=tmp_path))


def test_a_kept_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    keys = key_files(Settings(data_dir=tmp_path))
    keys.keep(API_KEY, "lb_secret")
    assert keys.read(API_KEY) == "lb_secret"
    assert (tmp_path / "secrets" / API_KEY).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert keys.read_or_make("other") == keys.read_or_make("other")
    assert "lb_secret" not in repr(keys)


def test_the_running_stack_is_found_until_it_ends(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    running = RunningStack(1, "http://127.0.0.1:4321", {})
    with owning(tmp_path):
        write_stack_file(tmp_path, running)
        assert gateway_url(settings) == "http://127.0.0.1:4321"
        assert gateway_url(Settings(data_dir=tmp_path, gateway_url="http://set")) == "http://set"
        with pytest.raises(Conflict, match="already runs"), owning(tmp_path):
            pass
    assert read_stack_file(tmp_path) is None
    assert gateway_url(settings) == "http://127.0.0.1:8080"


def test_what_a_crash_left_behind_counts_as_no_stack(tmp_path: Path) -> None:
    with owning(tmp_path):
        pass
    write_stack_file(tmp_path, RunningStack(1, "http://127.0.0.1:4321", {}))
    assert read_stack_file(tmp_path) is None
