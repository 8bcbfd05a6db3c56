"""Loads under way, as futures: how one that is through already looks, and what became of one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from core.errors import LatentBankError

T = TypeVar("T")


def done(outcome: T | LatentBankError) -> Future[T]:
    """A load that has ended so."""
    future: Future[T] = Future()
    if isinstance(outcome, LatentBankError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def problem_of(load: Future[T], pending: LatentBankError) -> LatentBankError | None:
    """Why there is nothing (yet, then `pending`); what is no error of ours is raised."""
    if not load.done():
        return pending
    problem = load.exception()
    if problem is None or isinstance(problem, LatentBankError):
        return problem
    raise problem
