from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import ObjectCorrupt
from core.storage.manifest import Manifest, ManifestFile, digest_of
from core.storage.memory import MemoryStore
from tests.unit.core.storage.examples import published


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return published(MemoryStore(), tmp_path)


def test_a_manifest_survives_its_text(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_digest_covers_names_and_contents_but_not_the_order() -> None:
    one, two = ManifestFile("a.json", 1, "1" * 64), ManifestFile("b.json", 1, "2" * 64)
    assert digest_of([one, two]) == digest_of([two, one])
    swapped = [ManifestFile("b.json", 1, "1" * 64), ManifestFile("a.json", 1, "2" * 64)]
    assert digest_of(swapped) != digest_of([one, two])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("tenant_id", "tenant_" + "z" * 26),
        ("memory_id", "../.."),
        ("job_id", "x"),
        ("version", -1),
        ("version", 2),
        ("epoch", True),
        ("prefix", "../elsewhere"),
        ("prefix", "tenants/other"),
        ("prefix", None),
        ("adapter_digest", "sha256:" + "0" * 64),
        ("files", []),
        ("files", [{"name": "../../etc/passwd.json", "bytes": 1, "sha256": "0" * 64}]),
        ("files", [{"name": "adapter.bin", "bytes": 1, "sha256": "0" * 64}]),
        ("files", [{"name": "a.json"}]),
        ("base_digest", "md5:1"),
        ("activation_tokens", []),
        ("activation_tokens", ["1"]),
        ("rank", 0),
        ("targets", [1]),
        ("training", []),
        ("surprise", 1),
    ],
)
def test_a_manifest_with_an_odd_field_is_corrupt(manifest: Manifest, field: str, value: Any) -> None:
    fields = json.loads(manifest.to_json()) | {field: value}
    with pytest.raises(ObjectCorrupt):
        Manifest.from_json(json.dumps(fields))


def test_a_manifest_without_a_field_is_corrupt(manifest: Manifest) -> None:
    fields = json.loads(manifest.to_json())
    for field in fields.keys() - {"format"}:
        with pytest.raises(ObjectCorrupt):
            Manifest.from_json(json.dumps({name: value for name, value in fields.items() if name != field}))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_corrupt(text: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        Manifest.from_json(text)


def test_half_a_manifest_is_corrupt(manifest: Manifest) -> None:
    text = manifest.to_json()
    with pytest.raises(ObjectCorrupt):
        Manifest.from_json(text[: len(text) // 2])
