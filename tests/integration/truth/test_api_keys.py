from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, text, update

from core.credentials import key_sha256
from core.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from core.truth import api_keys as keys
from core.truth import audit, tables
from core.truth.clock import from_now, now
from core.truth.database import Database
from tests.fixtures.truth import add_tenant

SOMEBODY = audit.Actor("key:key_a")


def test_a_key_opens_its_tenant_until_it_is_revoked(truth: Database) -> None:
    ours, theirs = add_tenant(truth, "ours"), add_tenant(truth, "theirs")
    with truth.begin() as connection:
        key, kept = keys.issue_key(connection, ours.id, name="ingester", scopes=("read", "ingest"))
        other, _ = keys.issue_key(connection, theirs.id)
        opened = keys.open_key(connection, key)
        assert (opened.tenant, opened.key) == (ours, kept)
        assert (kept.name, kept.scopes, kept.expires_at) == ("ingester", ("ingest", "read"), None)
        assert keys.open_key(connection, other).tenant == theirs
        revoked = keys.revoke_key(connection, ours.id, kept.id)
        assert revoked.revoked_at is not None
        for wrong in (key, "lb_never", "", key + "x"):
            with pytest.raises(Unauthenticated):
                keys.open_key(connection, wrong)
        assert keys.open_key(connection, other).key.scopes == keys.SCOPES
        assert keys.revoke_key(connection, ours.id, kept.id) == revoked


def test_of_a_key_only_its_digest_is_stored(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        key, kept = keys.issue_key(connection, tenant.id)
        stored = connection.execute(tables.api_keys.select()).one()
        logged = connection.execute(tables.audit_log.select()).all()
    assert key.startswith("lb_")
    assert key not in str(stored) + str(logged) + str(kept)


def test_a_key_opens_nothing_after_its_end(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        key, kept = keys.issue_key(connection, tenant.id, lifetime_seconds=3600)
        assert keys.open_key(connection, key).key == kept
        connection.execute(update(tables.api_keys).values(expires_at=now()))
        with pytest.raises(Unauthenticated, match="expired"):
            keys.open_key(connection, key)
        with pytest.raises(Conflict):
            keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=60)


def test_a_key_from_before_scopes_has_them_all_and_an_id(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        connection.execute(
            text("INSERT INTO api_keys (key_sha256, tenant_id, created_at) SELECT :sha, id, created_at FROM tenants"),
            {"sha": key_sha256("lb_old")},
        )
        opened = keys.open_key(connection, "lb_old")
        assert (opened.key.scopes, opened.key.name) == (keys.SCOPES, "")
        assert keys.list_keys(connection, tenant.id) == [opened.key]
        keys.rotate_key(connection, tenant.id, opened.key.id, grace_seconds=0)
        with pytest.raises(Unauthenticated):
            keys.open_key(connection, "lb_old")


def test_a_successor_has_the_same_scopes_and_the_old_key_opens_through_its_grace(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        old, kept = keys.issue_key(connection, tenant.id, name="asker", scopes=("query",), lifetime_seconds=1000)
        new, successor = keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=600)
        assert (successor.name, successor.scopes) == ("asker", ("query",))
        assert successor.expires_at is not None
        assert abs((successor.expires_at - successor.created_at).total_seconds() - 1000) < 1
        assert keys.open_key(connection, new).key.id == successor.id
        ending = keys.open_key(connection, old).key
        assert ending.revoked_at is not None
        assert 590 < (ending.revoked_at - ending.created_at).total_seconds() < 660


def test_without_grace_the_old_key_opens_nothing_at_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        old, kept = keys.issue_key(connection, tenant.id)
        new, _ = keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=0, lifetime_seconds=60)
        with pytest.raises(Unauthenticated, match="revoked"):
            keys.open_key(connection, old)
        assert keys.open_key(connection, new).key.expires_at is not None


def test_a_second_rotation_shortens_the_grace_and_never_lengthens_it(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        old, kept = keys.issue_key(connection, tenant.id)
        keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=600)
        first = keys.open_key(connection, old).key.revoked_at
        keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=6000)
        assert keys.open_key(connection, old).key.revoked_at == first
        keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=60)
        second = keys.open_key(connection, old).key.revoked_at
        assert first is not None
        assert second is not None
        assert second < first
        keys.revoke_key(connection, tenant.id, kept.id)
        with pytest.raises(Unauthenticated):
            keys.open_key(connection, old)


def test_another_tenants_key_is_not_found(truth: Database) -> None:
    ours, theirs = add_tenant(truth, "ours"), add_tenant(truth, "theirs")
    with truth.begin() as connection:
        key, kept = keys.issue_key(connection, theirs.id)
        with pytest.raises(NotFound):
            keys.revoke_key(connection, ours.id, kept.id)
        with pytest.raises(NotFound):
            keys.rotate_key(connection, ours.id, kept.id, grace_seconds=0)
        with pytest.raises(InvalidRequest):
            keys.list_keys(connection, ours.id, after=kept.id)
        with pytest.raises(NotFound):
            keys.issue_key(connection, "tenant_unknown")
        assert keys.list_keys(connection, ours.id) == []
        assert keys.open_key(connection, key).key.revoked_at is None


def test_keys_are_listed_in_pages_newest_first(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        for seconds in range(5):
            row = {"tenant_id": tenant.id, "scopes": ["read"], "name": str(seconds)}
            at = from_now(seconds)
            connection.execute(
                insert(tables.api_keys).values(key_sha256=key_sha256(f"lb_{seconds}"), created_at=at, **row)
            )
        first = keys.list_keys(connection, tenant.id, limit=2)
        rest = keys.list_keys(connection, tenant.id, after=first[-1].id)
    assert [key.name for key in first + rest] == ["4", "3", "2", "1", "0"]


def test_a_keys_use_is_noted_once_an_hour(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        key, kept = keys.issue_key(connection, tenant.id)
        assert keys.open_key(connection, key).use_is_news
        keys.note_use(connection, kept)
        opened = keys.open_key(connection, key)
        assert opened.key.last_used_at is not None
        assert not opened.use_is_news
        keys.note_use(connection, kept)
        assert keys.open_key(connection, key).key == opened.key
        connection.execute(update(tables.api_keys).values(last_used_at=from_now(-keys.USE_NOTED_SECONDS)))
        assert keys.open_key(connection, key).use_is_news
        keys.note_use(connection, kept)
        assert not keys.open_key(connection, key).use_is_news


def test_what_is_done_to_keys_is_in_the_audit_log(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        _, kept = keys.issue_key(connection, tenant.id, name="what a tenant wrote", scopes=("read",), by=SOMEBODY)
        _, successor = keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=60, by=SOMEBODY)
        keys.revoke_key(connection, tenant.id, successor.id, by=SOMEBODY)
        keys.revoke_key(connection, tenant.id, successor.id, by=SOMEBODY)
        told = audit.list_records(connection, tenant.id, limit=3)
    assert [(one.action, one.actor, one.subject_id, one.data) for one in told] == [
        ("key.revoked", "key:key_a", successor.id, {}),
        ("key.rotated", "key:key_a", kept.id, {"successor": successor.id, "grace_seconds": 60}),
        ("key.issued", "key:key_a", kept.id, {"scopes": ["read"]}),
    ]


def test_two_who_rotate_one_key_at_once_both_get_a_successor_that_opens(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        _, kept = keys.issue_key(connection, tenant.id)

    def rotate(_: int) -> str:
        with truth.begin() as connection:
            return keys.rotate_key(connection, tenant.id, kept.id, grace_seconds=60)[0]

    with ThreadPoolExecutor(2) as pool:
        made = set(pool.map(rotate, range(2)))
    with truth.read() as connection:
        assert len(made) == 2
        assert {keys.open_key(connection, key).tenant.id for key in made} == {tenant.id}
