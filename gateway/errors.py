"""Every error in OpenAI's shape: `{"error": {message, type, param, code}}`, whoever raised it."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy import exc as database_errors
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from core.errors import LatentBankError, TooMany, Unavailable
from core.logs import get_logger

RETRY_AFTER_SECONDS = 5

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_CODES = {404: "not_found", 405: "method_not_allowed"}
_log = get_logger(__name__)


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error; its `type` follows from the status."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_body(status, code, message, param), status, headers=dict(headers or {}))


def internal_error() -> JSONResponse:
    """What a client is told of a fault of ours: nothing but that it was one."""
    return error_response(500, "internal_error", "Something went wrong here; the request id names it in the logs.")


def answer_to(problem: LatentBankError) -> JSONResponse:
    """The answer to an error of ours."""
    return error_response(problem.status, problem.code, told(problem), problem.param, _headers_of(problem))


def told(problem: LatentBankError) -> str:
    """What a client is told of it. What failed inside (5xx) is told in general words only."""
    known = problem.status < 500 or isinstance(problem, Unavailable)
    return problem.message if known else (type(problem).__doc__ or "").strip()


def install_errors(app: FastAPI) -> None:
    """Makes `app` answer every exception in this shape; what is left, the request middleware answers with a 500."""
    app.add_exception_handler(LatentBankError, _on_latentbank_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)
    app.add_exception_handler(HTTPException, _on_http_exception)
    # The database is away, restarting, or has no connection left: the client may try again.
    for away in (database_errors.OperationalError, database_errors.InterfaceError, database_errors.TimeoutError):
        app.add_exception_handler(away, _on_database_away)


def _headers_of(problem: LatentBankError) -> dict[str, str]:
    if isinstance(problem, TooMany):
        return {"Retry-After": str(problem.retry_after_seconds)}
    if problem.status == 503:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if problem.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {}


async def _on_latentbank_error(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, LatentBankError)
    if problem.status >= 500:
        _log.error("request failed", code=problem.code, reason=problem.message, exc_info=problem)
    return answer_to(problem)


async def _on_invalid_parameter(_request: Request, problem: Exception) -> Response:
    """Path, query and header parameters; bodies are read and checked by `gateway.bodies`."""
    assert isinstance(problem, RequestValidationError)
    first = problem.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return error_response(400, "invalid_request", f"{param}: {first['msg']}.", param)


async def _on_http_exception(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    status = problem.status_code
    headers = {"Allow": _allowed(request)} if status == 405 else problem.headers
    message = {
        404: "There is nothing at this address.",
        405: "This address does not take that method.",
    }.get(status, http.HTTPStatus(status).phrase)
    return error_response(status, _CODES.get(status, "invalid_request"), message, headers=headers)


def _allowed(request: Request) -> str:
    """All methods of the address; the router itself names only those of the first route that it found there."""
    path = getattr(request.scope.get("route"), "path", "")
    methods = request.app.openapi()["paths"].get(path) or ("GET",)
    return ", ".join(sorted(method.upper() for method in methods))


async def _on_database_away(_request: Request, problem: Exception) -> Response:
    _log.error("the database did not answer", exc_info=problem)
    return answer_to(Unavailable("The database is not there right now; try again."))
