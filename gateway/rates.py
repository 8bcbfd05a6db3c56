"""Requests per minute of each tenant, by a sliding window; shared by all gateways where the broker is Redis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Lock

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from core.errors import RateLimited
from core.logs import get_logger
from core.metrics import GatewayMetrics
from core.truth.records import Tenant

_REDIS = ("redis://", "rediss://")
_REDIS_SECONDS = 0.5
"""How long a request waits for Redis."""

_ALONE_SECONDS = 5.0
"""How long a gateway goes by its own counts after Redis did not answer, so that not every request waits for it."""

_log = get_logger(__name__)


class RequestRates:
    """Counts requests and refuses those over a tenant's limit. Blocking where Redis is asked: for a thread.

    The window slides: of the minute before, as much counts as the last sixty seconds reach into it. While Redis is
    away, and where the broker is another, each gateway process allows the whole limit by its own counts.
    """

    def __init__(
        self,
        broker_url: str,
        default: int | None,
        metrics: GatewayMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._default = default
        self._metrics = metrics
        self._clock = clock
        self._shared = _shared(broker_url)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._own_lock = Lock()
        self._alone_until = -math.inf

    def spend(self, tenant: Tenant) -> None:
        """Counts one request of the tenant; raises `RateLimited` where it is one too many, which does not count."""
        most = tenant.quotas.requests_per_minute or self._default
        if most is None:
            return
        limit = RateLimitItemPerMinute(most)
        wait = self._wait(limit, tenant.id)
        self._metrics.rated.labels(outcome="allowed" if wait is None else "refused").inc()
        if wait is not None:
            raise RateLimited(
                f"The tenant may send {most} requests a minute; send the next in {wait} s, or ask the operator for a "
                "larger quota.",
                retry_after_seconds=wait,
            )

    def _wait(self, limit: RateLimitItemPerMinute, tenant_id: str) -> int | None:
        """Seconds until it may be tried again, at the least one; `None` where the request may pass."""
        if self._shared is not None and self._clock() >= self._alone_until:
            try:
                return _hit(self._shared, limit, tenant_id)
            except StorageError as problem:
                self._alone_until = self._clock() + _ALONE_SECONDS
                self._metrics.rates_alone.inc()
                _log.warning("Redis did not answer; requests are counted by this process alone", reason=str(problem))
        with self._own_lock:
            return _hit(self._own, limit, tenant_id)


def _shared(broker_url: str) -> SlidingWindowCounterRateLimiter | None:
    if not broker_url.startswith(_REDIS):
        return None
    storage = RedisStorage(
        broker_url,
        key_prefix="latentbank-rates",
        wrap_exceptions=True,
        socket_timeout=_REDIS_SECONDS,
        socket_connect_timeout=_REDIS_SECONDS,
    )
    return SlidingWindowCounterRateLimiter(storage)


def _hit(limiter: SlidingWindowCounterRateLimiter, limit: RateLimitItemPerMinute, tenant_id: str) -> int | None:
    if limiter.hit(limit, tenant_id):
        return None
    return max(1, math.ceil(limiter.get_window_stats(limit, tenant_id).reset_time - time.time()))
