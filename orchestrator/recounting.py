"""Counts again what tenants use: a process from before the counts, or a row mended by hand, leaves them wrong."""

from __future__ import annotations

from core.logs import get_logger
from core.truth import usage
from core.truth.database import Database

_EVERY_SECONDS = 3600.0
"""How old a tenant's count may become."""

_AT_ONCE = 500
_log = get_logger(__name__)


class Recounting:
    """Any number may run."""

    def __init__(self, database: Database, every_seconds: float = _EVERY_SECONDS) -> None:
        self._database = database
        self._every_seconds = every_seconds

    def run_once(self) -> list[str]:
        """Counts those whose turn it is, each in a transaction of its own; the tenants whose count was wrong."""
        with self._database.read() as connection:
            due = usage.due_for_recount(connection, self._every_seconds, _AT_ONCE)
        wrong = [tenant_id for tenant_id in due if self._recount(tenant_id)]
        if wrong:
            _log.warning("usage was counted wrong and is mended", tenants=len(wrong), some=wrong[:10])
        return wrong

    def _recount(self, tenant_id: str) -> bool:
        with self._database.begin() as connection:
            return usage.recount(connection, tenant_id)
