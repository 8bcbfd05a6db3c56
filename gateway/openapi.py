"""The parts of the OpenAPI document that FastAPI can't see: bodies read by hand, limits of the settings, errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from core.settings import LimitSettings
from gateway.answers import Answer
from gateway.auth import TENANT_SCHEME
from gateway.schemas import (
    BatchMemory,
    ChatQuestion,
    CompletionQuestion,
    ErrorAnswer,
    KeyRotation,
    MemoryUpdate,
    NewKey,
    NewMemories,
    NewMemory,
    NewTenant,
    OwnSettings,
    TenantChange,
)

Document = dict[str, Any]

_BODIES: tuple[type[BaseModel], ...] = (
    NewMemory,
    BatchMemory,
    NewMemories,
    MemoryUpdate,
    NewTenant,
    TenantChange,
    OwnSettings,
    NewKey,
    KeyRotation,
    ChatQuestion,
    CompletionQuestion,
    Answer,
)
_REF = "#/components/schemas/{model}"
_DESCRIPTION = """Long-term memory for language models that lives in weights. A context is distilled into a LoRA
adapter; questions are answered with the memory that a gate chooses, or without one.
Every answer has an `X-Request-Id`; every error is `{"error": {message, type, param, code}}`."""
_ERRORS = {
    400: "The request can't be taken as it is.",
    401: "No valid API key.",
    403: "This key may not do that: it lacks the scope that the operation names, or is not the admin's.",
    404: "There is nothing with that id.",
    408: "The body did not come in time.",
    409: "That contradicts the present state.",
    413: "The body is too large.",
    429: "Too much is waiting, asked for or kept; `Retry-After` says when to come back.",
    500: "Something went wrong here.",
    503: "A part that this needs is not there right now; `Retry-After` says when to come back.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What `responses=` declares for these statuses, and for the 500 that may always be."""
    return {status: {"model": ErrorAnswer, "description": _ERRORS[status]} for status in (*statuses, 500)}


def answers(model: type[BaseModel]) -> Document:
    """The schema of an answer that the gateway passes on as it is."""
    return {"$ref": _REF.format(model=model.__name__)}


def takes(model: type[BaseModel]) -> Document:
    """What `openapi_extra=` declares for a JSON body that the route reads by hand."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def install_openapi(app: FastAPI, limits: LimitSettings) -> None:
    def document() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, limits)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, limits: LimitSettings) -> Document:
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    schemas: Document = document["components"]["schemas"]
    for model in _BODIES:
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for name in ("NewMemory", "BatchMemory"):
        schemas[name]["properties"]["title"]["maxLength"] = limits.title_chars
    batch: Document = schemas["NewMemories"]["properties"]["memories"]
    # Each is checked by itself, so that the model does not say what it has to be.
    batch |= {"items": {"anyOf": [answers(BatchMemory), {}]}, "maxItems": limits.batch_memories}
    schemas["MemoryUpdate"]["properties"]["title"]["anyOf"][0]["maxLength"] = limits.title_chars
    for name in ("NewMemory", "MemoryUpdate", "ChatQuestion"):
        schemas[name]["properties"]["messages"]["maxItems"] = limits.messages
    _drop_unused_validation_error(document)
    _say_scopes(document)
    _declare_rates(document)
    return document


def _say_scopes(document: Document) -> None:
    """In words, since few viewers show what `security` says of a bearer key."""
    for path in document["paths"].values():
        for operation in path.values():
            for requirement in operation.get("security", ()):
                needed = " and ".join(f"`{scope}`" for scope in requirement.get(TENANT_SCHEME, ()))
                said = f"Needs a key with the scope {needed}." if needed else "Needs the admin key."
                operation["description"] = f"{operation.get('description', '')}\n\n{said}".strip()


def _declare_rates(document: Document) -> None:
    """Whatever a tenant's key opens can be asked for too often."""
    schema = {"$ref": _REF.format(model=ErrorAnswer.__name__)}
    refusal = {"description": _ERRORS[429], "content": {"application/json": {"schema": schema}}}
    for path in document["paths"].values():
        for operation in path.values():
            if any(TENANT_SCHEME in scheme for scheme in operation.get("security", ())):
                operation["responses"].setdefault("429", refusal)


def _drop_unused_validation_error(document: Document) -> None:
    """FastAPI declares its own 422 wherever there are parameters; here those are a 400 in our shape."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
