from __future__ import annotations

import pytest

from core.errors import InvalidKey
from core.storage.keys import (
    KeyOwner,
    adapter_prefix,
    context_key,
    manifest_key,
    memory_prefix,
    owner_of,
    revised_context_key,
    version_prefix,
)
from core.storage.object_store import folder, is_key
from tests.unit.core.storage.examples import MEMORY, TENANT


def test_two_attempts_never_share_a_folder() -> None:
    prefixes = {adapter_prefix(TENANT, MEMORY, 1, epoch, token) for epoch in (1, 2) for token in ("a", "b")}
    assert len(prefixes) == 4


def test_an_attempt_lies_in_its_version_and_its_memory() -> None:
    prefix = adapter_prefix(TENANT, MEMORY, 3, 7, "token")
    assert prefix.startswith(f"{version_prefix(TENANT, MEMORY, 3)}/")
    assert prefix.startswith(f"{memory_prefix(TENANT, MEMORY)}/")


def test_a_key_says_whose_it_is() -> None:
    prefix = adapter_prefix(TENANT, MEMORY, 3, 7, "to-ken")
    assert owner_of(manifest_key(prefix)) == KeyOwner(TENANT, MEMORY, prefix, 3, 7)
    assert owner_of(context_key(TENANT, MEMORY)) == KeyOwner(TENANT, MEMORY)
    assert owner_of(revised_context_key(TENANT, MEMORY, "job_" + "a" * 26)) == KeyOwner(TENANT, MEMORY)


@pytest.mark.parametrize(
    "key", ["", "other", "tenants/x/memories/y/context.json", f"tenants/{TENANT}/memories/{MEMORY}/notes.txt"]
)
def test_a_key_that_is_not_ours_has_no_owner(key: str) -> None:
    assert owner_of(key) is None


@pytest.mark.parametrize("text", ["../..", "tenant_x/../..", "mem_ABC", "", "tenant_" + "a" * 25 + "/"])
def test_only_ids_become_keys(text: str) -> None:
    with pytest.raises(InvalidKey):
        context_key(text, MEMORY)
    with pytest.raises(InvalidKey):
        context_key(TENANT, text)
    with pytest.raises(InvalidKey):
        revised_context_key(TENANT, MEMORY, text)


@pytest.mark.parametrize("token", ["", "a/b", "..", ".a", "a b"])
def test_a_token_is_one_segment(token: str) -> None:
    with pytest.raises(InvalidKey):
        adapter_prefix(TENANT, MEMORY, 1, 1, token)


def test_a_prefix_is_a_folder_with_or_without_its_slash() -> None:
    assert folder("a/b") == folder("a/b/") == "a/b/"
    assert folder("") == ""
    assert not is_key("a/b/")
