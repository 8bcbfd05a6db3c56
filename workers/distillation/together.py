"""What the attempts of a pack write down together: one transaction for all of them, and still each for itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from core.logs import get_logger
from core.truth import jobs
from core.truth.jobs import Advance
from core.truth.records import Publication
from workers.distillation.attempt import LASTING, RETRY_SECONDS, Attempt
from workers.distillation.runs import MemoryResult
from workers.distillation.worker import Distillation

THREADS = 8
"""Contexts and adapters on their way from and to the object store at once."""

_log = get_logger(__name__)


def advance_together(at: Distillation, attempts: Sequence[Attempt], advances: Sequence[Advance]) -> None:
    """Writes progress down; a database that is away costs events, not attempts. A lost lease ends its attempt."""
    if not advances:
        return
    try:
        with at.database.begin() as connection:
            held = jobs.advance_all(connection, advances)
    except SQLAlchemyError as problem:
        _log.warning("progress could not be written down", problem=str(problem))
        return
    told = {advance.claim.job.id for advance in advances}
    for attempt in attempts:
        if attempt.claim.job.id in told and attempt.claim.job.id not in held:
            attempt.lose()


def publish_together(at: Distillation, results: Sequence[tuple[Attempt, MemoryResult]]) -> None:
    """Uploads side by side what the trainer made, then publishes in one transaction what is whole.

    Every attempt has ended when it returns.
    """
    accepted = [(attempt, result) for attempt, result in results if attempt.accept(result)]
    advance_together(at, [attempt for attempt, _ in accepted], [attempt.publishing() for attempt, _ in accepted])
    if not accepted:
        return
    with ThreadPoolExecutor(min(THREADS, len(accepted)), thread_name_prefix="upload") as threads:
        made = list(threads.map(lambda one: one[0].upload(one[1]), accepted))
    whole = [(attempt, one) for (attempt, _), one in zip(accepted, made, strict=True) if one is not None]
    for attempt, _ in whole:
        attempt.lease.settle()
    while whole:
        try:
            published = _commit(at, whole)
        except LASTING:
            _alone(whole)
            return
        except SQLAlchemyError as problem:
            _log.warning("the database did not answer; trying again", problem=str(problem))
            for attempt, _ in whole:
                attempt.watch()
            whole = [(attempt, one) for attempt, one in whole if attempt.open]
            time.sleep(RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - whatever is wrong with one of them is not to keep the others
            _alone(whole)
            return
        else:
            for (attempt, _), yes in zip(whole, published, strict=True):
                attempt.settle(published=yes)
            return


def _alone(whole: Sequence[tuple[Attempt, Publication]]) -> None:
    _log.exception("the pack could not be published together; each goes alone")
    for attempt, publication in whole:
        attempt.publish(publication)


def _commit(at: Distillation, whole: Sequence[tuple[Attempt, Publication]]) -> list[bool]:
    with at.database.begin() as connection:
        return jobs.publish_all(connection, [(attempt.claim, publication) for attempt, publication in whole])
