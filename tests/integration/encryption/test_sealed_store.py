from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update

from core.encryption.data_keys import KEPT_SECONDS, DataKeys
from core.encryption.envelope import is_sealed, key_id_of
from core.encryption.master_keys import MasterKeys
from core.encryption.sealed_store import SealedStore, open_sealed_store
from core.errors import InvalidKey, KeyMissing, NotFound, ObjectCorrupt, SetupError
from core.ids import new_id
from core.settings import Settings
from core.storage.keys import context_key
from core.storage.local import LocalStore
from core.storage.object_store import ObjectStore
from core.truth import tenant_keys
from core.truth.database import Database
from core.truth.records import Tenant
from core.truth.tables import tenant_keys as table
from orchestrator.rewrapping import Rewrapping
from orchestrator.sealing import seal_all
from tests.fixtures.truth import add_tenant, admit

OLD, NEW = os.urandom(32), os.urandom(32)
TEXT = b'{"kind": "text", "text": "The mayor of Saltmere is Tobias Finch."}'


@pytest.fixture(params=["local", "s3"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path / "objects") if request.param == "local" else request.getfixturevalue("s3_store")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sealed(store: ObjectStore, database: Database, *masters: bytes, clock: Clock | None = None) -> SealedStore:
    return SealedStore(store, DataKeys(database, MasterKeys(masters or (OLD,)), clock=clock or Clock()))


def a_key(tenant: Tenant) -> str:
    return context_key(tenant.id, new_id("mem"))


def test_no_object_shows_what_is_in_it_and_every_reader_gets_it_back(
    truth: Database, plain: ObjectStore, tmp_path: Path
) -> None:
    store = sealed(plain, truth)
    keys = [a_key(add_tenant(truth, name)) for name in ("harbour", "bakery")]
    for key in keys:
        store.put(key, TEXT)
    for found in plain.list(""):
        assert b"Finch" not in plain.get(found.key)
    assert [sealed(plain, truth).get(key) for key in keys] == [TEXT, TEXT]
    store.download(keys[0], tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == TEXT


def test_each_tenant_has_its_own_key_however_many_processes_write_first(truth: Database, local: LocalStore) -> None:
    first, second = add_tenant(truth), add_tenant(truth)
    places = [a_key(first), a_key(first), a_key(second)]
    for place in places:
        sealed(local, truth).put(place, TEXT)
    ids = [key_id_of(local.get(place), place) for place in places]
    assert ids[0] == ids[1] != ids[2]


def test_an_object_in_another_ones_place_is_refused_also_across_tenants(truth: Database, local: LocalStore) -> None:
    store = sealed(local, truth)
    tenant, other = add_tenant(truth), add_tenant(truth)
    mine, beside, theirs = a_key(tenant), a_key(tenant), a_key(other)
    for key in (mine, beside, theirs):
        store.put(key, TEXT)
    local.put(beside, local.get(mine))
    with pytest.raises(ObjectCorrupt):
        store.get(beside)
    local.put(theirs, local.get(mine))
    with pytest.raises(KeyMissing):
        store.get(theirs)


def test_with_its_key_destroyed_nothing_of_the_tenant_can_be_read(truth: Database, plain: ObjectStore) -> None:
    clock = Clock()
    store = sealed(plain, truth, clock=clock)
    tenant, other = add_tenant(truth), add_tenant(truth)
    mine, theirs = a_key(tenant), a_key(other)
    store.put(mine, TEXT)
    store.put(theirs, TEXT)
    with truth.begin() as connection:
        assert tenant_keys.destroy(connection, tenant.id) == 1
        assert connection.execute(select(table.c.wrapped).where(table.c.tenant_id == tenant.id)).scalar_one() == b""
    clock.now = KEPT_SECONDS
    with pytest.raises(KeyMissing):
        store.get(mine)
    assert store.get(theirs) == TEXT


def test_a_key_that_was_destroyed_elsewhere_is_used_for_moments_only(truth: Database, local: LocalStore) -> None:
    clock = Clock()
    store, tenant = sealed(local, truth, clock=clock), add_tenant(truth)
    key = a_key(tenant)
    store.put(key, TEXT)
    store.get(key)
    with truth.begin() as connection:
        tenant_keys.destroy(connection, tenant.id)
    clock.now = KEPT_SECONDS - 0.1
    assert store.get(key) == TEXT
    clock.now = KEPT_SECONDS
    store.keys.expire()
    with pytest.raises(KeyMissing):
        store.get(key)


def test_what_is_nobodys_is_not_stored(truth: Database, local: LocalStore) -> None:
    with pytest.raises(InvalidKey):
        sealed(local, truth).put("somewhere/else", TEXT)
    with pytest.raises(NotFound):
        sealed(local, truth).put(context_key(new_id("tenant"), new_id("mem")), TEXT)
    assert not list(local.list(""))


def test_objects_from_before_are_read_as_they_are_and_sealed_by_the_command(
    truth: Database, plain: ObjectStore
) -> None:
    store, tenant = sealed(plain, truth), add_tenant(truth)
    memory, _ = admit(truth, tenant)
    stray = a_key(tenant)
    plain.put(memory.context_key, TEXT)
    plain.put(stray, TEXT)
    assert store.get(memory.context_key) == TEXT
    assert seal_all(truth, plain, store) == 1
    assert is_sealed(plain.get(memory.context_key))
    assert store.get(memory.context_key) == TEXT
    assert not is_sealed(plain.get(stray)), "what no row names is left to the garbage collector"
    assert seal_all(truth, plain, store) == 0


def test_the_master_key_is_rotated_without_touching_an_object(truth: Database, local: LocalStore) -> None:
    keys = [a_key(add_tenant(truth)) for _ in range(3)]
    for key in keys:
        sealed(local, truth, OLD).put(key, TEXT)
    before = [local.get(key) for key in keys]
    both = MasterKeys([NEW, OLD])
    assert [sealed(local, truth, NEW, OLD).get(key) for key in keys] == [TEXT] * 3
    assert Rewrapping(truth, both).run_once() == 3
    assert Rewrapping(truth, both).run_once() == 0
    assert [local.get(key) for key in keys] == before
    assert [sealed(local, truth, NEW).get(key) for key in keys] == [TEXT] * 3


def test_a_key_that_can_not_be_unwrapped_keeps_no_other_from_being_rewrapped(
    truth: Database, local: LocalStore
) -> None:
    broken, whole = a_key(add_tenant(truth)), a_key(add_tenant(truth))
    for key in (broken, whole):
        sealed(local, truth, OLD).put(key, TEXT)
    with truth.begin() as connection:
        hit = connection.execute(
            update(table).where(table.c.tenant_id == broken.split("/")[1]).values(wrapped=b"damaged")
        )
        assert hit.rowcount == 1
    assert Rewrapping(truth, MasterKeys([NEW, OLD])).run_once() == 1
    assert sealed(local, truth, NEW).get(whole) == TEXT
    with truth.read() as connection:
        assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 2


def test_a_process_without_the_master_key_of_what_is_stored_refuses_to_start(
    embedded_truth: Database, local: LocalStore, tmp_path: Path
) -> None:
    key = a_key(add_tenant(embedded_truth))
    sealed(local, embedded_truth, OLD).put(key, TEXT)
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url="", master_key=SecretStr(_base64(NEW)))
    with pytest.raises(SetupError, match="LATENTBANK_OLD_MASTER_KEYS"):
        open_sealed_store(settings, embedded_truth)
    with_old = settings.model_copy(update={"old_master_keys": SecretStr(_base64(OLD))})
    assert open_sealed_store(with_old, embedded_truth).get(key) == TEXT


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()
