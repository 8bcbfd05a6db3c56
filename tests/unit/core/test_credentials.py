from __future__ import annotations

import pytest
from pydantic import SecretStr

from core.credentials import is_one_of, key_id, key_sha256, sha256_prefix
from core.ids import is_id


def test_each_of_the_accepted_secrets_opens_and_nothing_else() -> None:
    accepted = (SecretStr("new"), SecretStr("old"))
    assert is_one_of("new", *accepted)
    assert is_one_of("old", *accepted)
    for wrong in ("", "ne", "newer", "newold", "üü", "\udcff"):
        assert not is_one_of(wrong, *accepted)


@pytest.mark.parametrize("given", ["", "None", "anything"])
def test_a_secret_that_is_empty_or_not_there_lets_nobody_in(given: str) -> None:
    assert not is_one_of(given)
    assert not is_one_of(given, None, SecretStr(""))


def test_a_keys_id_leads_back_to_half_of_its_digest_and_not_to_the_key() -> None:
    sha256 = key_sha256("lb_some-key")
    assert is_id("key", key_id(sha256))
    assert sha256_prefix(key_id(sha256)) == sha256[:32]
    assert key_id(sha256) == key_id(sha256[:32] + "0" * 32)
