"""Every error in OpenAI's shape: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from core.errors import InvalidRequest, LatentBankError, NotFound, Overloaded, Unavailable
from core.logs import get_logger

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
log = get_logger(__name__)


def error_body(problem: LatentBankError) -> dict[str, Any]:
    kind = _TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def install_errors(app: FastAPI) -> None:
    """Makes `app` answer every exception in this shape."""
    app.add_exception_handler(LatentBankError, _say)
    app.add_exception_handler(RequestValidationError, _say_invalid)
    app.add_exception_handler(HTTPException, _say_http)
    app.add_exception_handler(SQLAlchemyError, _say_database)
    app.add_exception_handler(Exception, _say_unexpected)


async def _say(_: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, LatentBankError)
    headers = {"Retry-After": str(problem.retry_after_seconds)} if isinstance(problem, Overloaded) else None
    return JSONResponse(error_body(problem), status_code=problem.status, headers=headers)


async def _say_invalid(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, RequestValidationError)
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    message = str(first["msg"]).removeprefix("Value error, ")
    param = where or first.get("ctx", {}).get("param")
    return await _say(request, InvalidRequest(f"{where}: {message}" if where else message, param=param))


async def _say_http(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, HTTPException)
    if problem.status_code == 404:
        return await _say(request, NotFound("There is no such route here."))
    return JSONResponse(error_body(InvalidRequest(str(problem.detail))), status_code=problem.status_code)


async def _say_database(request: Request, problem: Exception) -> JSONResponse:
    """The truth is away or busy. Without it no memory may be served, since it may be deleted."""
    log.error("the truth can't be read", problem=type(problem).__name__)
    return await _say(request, Unavailable("The truth can't be read right now; try again."))


async def _say_unexpected(request: Request, _: Exception) -> JSONResponse:
    # The server logs it with its cause.
    return await _say(request, LatentBankError("Something went wrong inside this worker; its log says what."))
