"""Many contexts at once: each checked, stored and admitted with an outcome of its own, in few statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from core.errors import IdempotencyConflict, LatentBankError, NotFound
from core.http.bodies import invalid
from core.settings import LimitSettings, RecipeSettings
from core.storage.object_store import ObjectStore
from core.truth.audit import Actor
from core.truth.database import Database
from core.truth.memories import admit_many, find_offered, get_memory
from core.truth.records import Job, Memory, Offer
from gateway.base_model import BaseModel
from gateway.intake import Admission, Context, check_context, default_quotas, record_of, remove_object, store_object
from gateway.schemas import BatchMemory

Outcome = Admission | LatentBankError

_STORING = ThreadPoolExecutor(16, thread_name_prefix="storing")
"""Where all requests' objects are stored, side by side."""


@dataclass(frozen=True, slots=True)
class BulkIntake:
    """Where many contexts go at once."""

    database: Database
    store: ObjectStore
    base: BaseModel
    limits: LimitSettings
    recipe: RecipeSettings
    by: Actor

    def take_in(self, tenant_id: str, items: Sequence[Any]) -> list[Outcome]:
        """What became of each item, a memory as JSON says it, in order; an error leaves nothing of its item.

        Everything that could be stored is admitted in one transaction, in the order of the items. Sent again with the
        same idempotency keys, it gives the same memories. Blocking, for a thread.
        """
        outcomes: list[Outcome | Offer] = []
        payloads: dict[str, bytes] = {}
        for item in items:
            try:
                context, key = self._check(item)
            except LatentBankError as problem:
                outcomes.append(problem)
                continue
            offer = Offer(record_of(tenant_id, context, self.recipe), key, context.body_sha256)
            payloads[offer.new.context_key] = context.payload
            outcomes.append(offer)
        outcomes = self._without_known(tenant_id, outcomes)
        outcomes = list(_STORING.map(lambda one: self._stored(one, payloads), outcomes))
        stored = [one for one in outcomes if isinstance(one, Offer)]
        kept: set[str] = set()
        try:
            admitted = iter(self._admit(tenant_id, stored))
            told = [next(admitted) if isinstance(one, Offer) else one for one in outcomes]
            kept = {one.memory.context_key for one in told if isinstance(one, Admission) and one.created}
        except _Unknown as unknown:
            kept = set(payloads)
            raise unknown.problem from None
        finally:
            self._remove(one.new.context_key for one in stored if one.new.context_key not in kept)
        return told

    def _check(self, item: Any) -> tuple[Context, str | None]:
        try:
            wanted = BatchMemory.model_validate(item)
        except ValidationError as problem:
            raise invalid(problem) from None
        return check_context(wanted, self.limits, self.base), wanted.idempotency_key

    def _without_known(self, tenant_id: str, outcomes: Sequence[Outcome | Offer]) -> list[Outcome | Offer]:
        """What an earlier request has made needs no new object."""
        keys = {one.idempotency_key for one in outcomes if isinstance(one, Offer) and one.idempotency_key}
        if not keys:
            return list(outcomes)
        with self.database.read() as connection:
            known = find_offered(connection, tenant_id, keys)
        return [_known(one, known) for one in outcomes]

    def _stored(self, one: Outcome | Offer, payloads: dict[str, bytes]) -> Outcome | Offer:
        if not isinstance(one, Offer):
            return one
        try:
            store_object(self.store, one.new.context_key, payloads[one.new.context_key])
        except LatentBankError as problem:
            return problem
        return one

    def _admit(self, tenant_id: str, offers: Sequence[Offer]) -> list[Outcome]:
        if not offers:
            return []
        told: list[Outcome] = []
        try:
            with self.database.begin() as connection:
                outcomes = admit_many(
                    connection,
                    tenant_id,
                    offers,
                    backlog_limit=self.limits.backlog_per_tenant,
                    quotas=default_quotas(self.limits),
                    by=self.by,
                )
                told = [one if isinstance(one, LatentBankError) else Admission(*one) for one in outcomes]
        except LatentBankError:
            raise
        except Exception as problem:
            # The commit may have happened although its reply was lost: only the database knows.
            if not self._is_there(tenant_id, told, problem):
                raise
        return told

    def _is_there(self, tenant_id: str, told: Sequence[Outcome], problem: Exception) -> bool:
        made = next((one for one in told if isinstance(one, Admission) and one.created), None)
        if made is None:
            return False
        try:
            with self.database.read() as connection:
                get_memory(connection, tenant_id, made.memory.id)
        except NotFound:
            return False
        except Exception as away:
            raise _Unknown(problem) from away
        return True

    def _remove(self, keys: Iterable[str]) -> None:
        list(_STORING.map(lambda key: remove_object(self.store, key), keys))


class _Unknown(Exception):
    """Nobody can say whether the commit happened, so that the objects stay."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _known(one: Outcome | Offer, known: Mapping[str, tuple[str, Memory, Job]]) -> Outcome | Offer:
    if not isinstance(one, Offer) or one.idempotency_key is None or one.idempotency_key not in known:
        return one
    body_sha256, memory, job = known[one.idempotency_key]
    return Admission(memory, job, created=False) if body_sha256 == one.body_sha256 else IdempotencyConflict()
