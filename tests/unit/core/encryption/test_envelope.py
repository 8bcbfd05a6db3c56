from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from core.encryption.envelope import is_sealed, key_id_of, seal, unseal
from core.errors import ObjectCorrupt
from core.ids import new_id

KEY_ID = new_id("dek")
CIPHER = AESGCM(os.urandom(32))
PLACE = "tenants/a/memories/b/context.json"


@given(st.binary(max_size=300))
def test_what_is_sealed_is_read_back_and_names_its_key(data: bytes) -> None:
    sealed = seal(data, PLACE, KEY_ID, CIPHER)
    assert is_sealed(sealed)
    assert key_id_of(sealed, PLACE) == KEY_ID
    assert unseal(sealed, PLACE, CIPHER) == data


def test_the_same_bytes_are_never_sealed_to_the_same() -> None:
    assert seal(b"same", PLACE, KEY_ID, CIPHER) != seal(b"same", PLACE, KEY_ID, CIPHER)


def test_an_object_put_in_place_of_another_is_refused() -> None:
    sealed = seal(b"of one memory", PLACE, KEY_ID, CIPHER)
    with pytest.raises(ObjectCorrupt):
        unseal(sealed, "tenants/a/memories/c/context.json", CIPHER)


@given(st.data())
def test_no_bit_can_be_changed_or_left_out(data: st.DataObject) -> None:
    sealed = seal(b"the mayor is Tobias Finch", PLACE, KEY_ID, CIPHER)
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = sealed[:at] + bytes([sealed[at] ^ (1 << data.draw(st.integers(0, 7)))]) + sealed[at + 1 :]
    for damaged in (flipped, sealed[:at]):
        with pytest.raises(ObjectCorrupt):
            unseal(damaged, PLACE, CIPHER)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(ObjectCorrupt):
        unseal(seal(b"x", PLACE, KEY_ID, CIPHER), PLACE, AESGCM(os.urandom(32)))


@pytest.mark.parametrize("plain", [b"", b'{"kind": "text"}', b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"PK\x03\x04"])
def test_what_was_stored_before_is_not_taken_for_sealed(plain: bytes) -> None:
    assert not is_sealed(plain)


def test_a_header_that_names_no_key_is_corrupt() -> None:
    with pytest.raises(ObjectCorrupt):
        key_id_of(seal(b"x", PLACE, KEY_ID, CIPHER)[:20], PLACE)
