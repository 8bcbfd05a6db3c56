"""For those who operate it: alive, ready, measured."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse

from core.errors import LatentBankError, Unavailable
from core.logs import get_logger
from gateway.errors import RETRY_AFTER_SECONDS, error_body
from gateway.openapi import errors
from gateway.schemas import Check, Health, NotReady, Readiness
from gateway.services import Parts, Services

router = APIRouter(tags=["ops"])
_log = get_logger(__name__)


@router.get("/health", responses=errors())
async def health() -> Health:
    """The process answers."""
    return Health()


@router.get(
    "/ready",
    responses={**errors(), 503: {"model": NotReady, "description": "Something is missing; `checks` says what."}},
    response_model=Readiness,
)
def ready(parts: Parts) -> Readiness | Response:
    """Memories can be taken in and questions answered: database, object store, base model, an inference worker.

    Of a gateway that is told to stop it is 503 at once, while it goes on answering: balancers turn away from it.
    """
    checks = {
        "database": _check("The database does not answer.", lambda: _ask_database(parts)),
        "object_store": _check("The object store does not answer.", parts.store.check),
        "base_model": _check("The base model is not prepared.", lambda: parts.base.base),
        "inference": _check("No inference worker is there.", lambda: _need_worker(parts)),
    }
    if parts.stopping.is_set():
        checks["staying"] = Check(ok=False, message="This gateway is about to stop.")
    missing = [str(check.message) for check in checks.values() if not check.ok]
    if not missing:
        return Readiness(status="ready", checks=checks)
    body = NotReady(
        status="not_ready", checks=checks, error=error_body(503, Unavailable.code, " ".join(missing))["error"]
    )
    return JSONResponse(body.model_dump(), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(parts: Parts) -> Response:
    return Response(generate_latest(parts.registry), media_type=CONTENT_TYPE_LATEST)


def _check(message: str, ask: Callable[[], object]) -> Check:
    try:
        ask()
    except Unavailable as problem:
        return Check(ok=False, message=problem.message)
    except (LatentBankError, SQLAlchemyError) as problem:
        _log.warning("not ready", check=message, reason=str(problem))
        return Check(ok=False, message=message)
    return Check(ok=True)


def _ask_database(parts: Services) -> None:
    with parts.database.read() as connection:
        parts.database.now(connection)


def _need_worker(parts: Services) -> None:
    if not parts.trusted.workers():
        raise Unavailable("No inference worker is there.")
