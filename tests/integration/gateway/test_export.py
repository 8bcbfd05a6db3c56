from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from core.cli.main import app
from core.cli.sources import context_of
from core.errors import ObjectCorrupt
from core.export import check_export
from core.storage.manifest import Manifest, describe_file
from core.storage.publication import upload_adapter
from core.truth import jobs, memories
from core.truth.records import Publication
from core.truth.tenants import list_tenants
from tests.integration.gateway.conftest import Gateway
from tests.unit.core.storage.examples import adapter_directory, facts

CHAT = [{"role": "user", "content": "Where is the ferry?"}, {"role": "assistant", "content": "At the third pier."}]


def remember(tenant: httpx.Client, **body: Any) -> str:
    answer = tenant.post("/v1/memories", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def publish(gateway: Gateway, memory_id: str, directory: Path) -> Manifest:
    """As a distillation worker does, but for the distilling."""
    with gateway.database.begin() as connection:
        memory = memories.by_ids(connection, [memory_id])[memory_id][0]
        (job,) = jobs.list_jobs(connection, memory.tenant_id, memory_id=memory_id)
        claim = jobs.claim(connection, job.id, "worker", 60)
        assert claim is not None
    known = facts(tenant_id=memory.tenant_id, memory_id=memory_id, job_id=job.id, base_digest=memory.base_digest)
    manifest, key = upload_adapter(gateway.services.store, adapter_directory(directory), **known)
    with gateway.database.begin() as connection:
        done = Publication(key, manifest.adapter_digest, manifest.total_bytes, memory.base_digest, 1)
        assert jobs.publish(connection, claim, done)
    return manifest


def exported(tenant: httpx.Client, path: Path) -> dict[str, bytes]:
    """The files of the tenant's export, which is whole."""
    answer = tenant.get("/v1/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    path.write_bytes(answer.content)
    complete = check_export(path)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        files = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert complete["files"] == len(names) - 1
    assert complete["lacking"] == []
    return files


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_an_export_has_all_of_the_tenant_and_nothing_of_another(
    gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client, tmp_path: Path
) -> None:
    text = remember(
        tenant, title="Ferry", text="The ferry leaves at nine.", metadata={"port": "Saltmere"}, collection="boats"
    )
    chat, gone = remember(tenant, title="Piers", messages=CHAT), remember(tenant, title="Secret", text="Forget this.")
    remember(other_tenant, title="Bread of the others", text="The others bake at four.")
    manifest = publish(gateway, text, tmp_path / "adapter")
    tenant.delete(f"/v1/memories/{gone}")
    files = exported(tenant, tmp_path / "export.tar")

    shown = json.loads(files[f"memories/{text}/memory.json"])
    assert shown.pop("context_sha256") == hashlib.sha256(files[f"memories/{text}/context.json"]).hexdigest()
    assert shown == tenant.get(f"/v1/memories/{text}").json()
    assert json.loads(files[f"memories/{text}/context.json"]) == {
        "kind": "text",
        "title": "Ferry",
        "text": "The ferry leaves at nine.",
    }
    assert json.loads(files[f"memories/{chat}/context.json"])["messages"] == CHAT
    assert Manifest.from_json(files[f"memories/{text}/adapter/manifest.json"]) == manifest
    for one in manifest.files:
        assert describe_file(one.name, files[f"memories/{text}/adapter/{one.name}"]) == one
    job = tenant.get("/v1/jobs", params={"memory_id": text}).json()["data"][0]
    assert lines(files[f"memories/{text}/jobs.jsonl"]) == [job]
    events = tenant.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert lines(files[f"memories/{text}/events.jsonl"]) == events
    assert json.loads(files[f"memories/{gone}/memory.json"])["status"] == "deleted"
    assert f"memories/{gone}/context.json" not in files
    assert [one["target"] for one in lines(files["deletions/1.jsonl"])] == [gone]
    deeds = {one["action"] for one in lines(files["audit/1.jsonl"])}
    assert {"memory.remembered", "memory.deleted", "tenant.exported"} <= deeds
    assert json.loads(files["tenant.json"])["name"] == "harbour"
    whole = b"".join(files.values())
    for planted in (b"others", b"bakery", b"Forget this", b"Secret"):
        assert planted not in whole
    with gateway.database.read() as connection:
        (theirs,) = [one.id for one in list_tenants(connection) if one.name == "bakery"]
    assert theirs.encode() not in whole


def test_what_was_exported_is_remembered_again_as_it_was(tenant: httpx.Client, tmp_path: Path) -> None:
    first = [remember(tenant, title="Ferry", text='{"a": 1} at nine'), remember(tenant, title="Piers", messages=CHAT)]
    files = exported(tenant, tmp_path / "export.tar")
    contexts = [files[f"memories/{memory_id}/context.json"] for memory_id in first]
    again = [remember(tenant, **context_of(context, "ignored")) for context in contexts]
    files = exported(tenant, tmp_path / "again.tar")
    assert [files[f"memories/{memory_id}/context.json"] for memory_id in again] == contexts


def test_more_memories_than_a_page_are_all_there_and_later_ones_are_not(
    gateway: Gateway, tenant: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.exporting._PAGE", 2)
    monkeypatch.setattr("gateway.exporting._LINES", 2)
    made = {remember(tenant, title=f"Ferry {number}", text="It leaves at nine.") for number in range(5)}
    files = exported(tenant, tmp_path / "export.tar")
    assert {name.split("/")[1] for name in files if name.startswith("memories/")} == made
    deeds = [one for name in files if name.startswith("audit/") for one in lines(files[name])]
    assert len({one["id"] for one in deeds}) == len(deeds) >= 6


def test_an_object_that_is_lost_is_named_and_the_rest_is_exported(
    gateway: Gateway, tenant: httpx.Client, tmp_path: Path
) -> None:
    lost, kept = (remember(tenant, title=title, text="It leaves at nine.") for title in ("Lost", "Kept"))
    (found,) = [one.key for one in gateway.services.store.list("") if lost in one.key]
    gateway.services.store.delete(found)
    path = tmp_path / "export.tar"
    path.write_bytes(tenant.get("/v1/export").content)
    complete = check_export(path)
    assert complete["lacking"] == [{"file": f"memories/{lost}/context.json", "code": "object_missing"}]
    with tarfile.open(path) as tar:
        assert f"memories/{kept}/context.json" in tar.getnames()


def test_an_export_that_was_cut_off_or_changed_is_told_from_a_whole_one(tenant: httpx.Client, tmp_path: Path) -> None:
    remember(tenant, title="Ferry", text="It leaves at nine.")
    path, whole = tmp_path / "export.tar", tenant.get("/v1/export").content
    at = whole.index(b"leaves")
    for broken in (whole[: len(whole) // 2], b"", whole[:at] + b"arrive" + whole[at + 6 :]):
        path.write_bytes(broken)
        with pytest.raises(ObjectCorrupt):
            check_export(path)
    path.write_bytes(whole)
    assert check_export(path)["memories"] == 1


def test_a_gateway_that_is_told_to_stop_cuts_an_export_off(gateway: Gateway, tenant: httpx.Client) -> None:
    remember(tenant, title="Ferry", text="It leaves at nine.")
    gateway.services.stopping.set()
    with pytest.raises(httpx.HTTPError):
        tenant.get("/v1/export")


def test_the_command_leaves_a_whole_file_or_none(
    gateway: Gateway, tenant: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_id = remember(tenant, title="Ferry", text="It leaves at nine.")
    monkeypatch.setenv("LATENTBANK_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("LATENTBANK_API_KEY", tenant.headers["Authorization"].removeprefix("Bearer "))
    path = tmp_path / "mine.tar"
    assert CliRunner().invoke(app, ["export", str(path)], catch_exceptions=False).exit_code == 0
    assert check_export(path)["memories"] == 1
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        assert f"memories/{memory_id}/context.json" in tar.getnames()
    assert CliRunner().invoke(app, ["export", str(path)]).exit_code != 0, "no file is overwritten"
    monkeypatch.setenv("LATENTBANK_API_KEY", "lb_unknown")
    assert CliRunner().invoke(app, ["export", str(tmp_path / "none.tar")]).exit_code != 0
    assert [one.name for one in tmp_path.iterdir()] == ["mine.tar"]
