"""The operator's port: vLLM's dynamic LoRA endpoints, taking memory ids where vLLM takes names and paths.

A path is never taken: what a memory's adapter is, the truth says. (Paths in these bodies were the hole of vllm#46287.)
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from starlette.concurrency import run_in_threadpool

from core.credentials import is_one_of
from core.errors import InvalidRequest, PayloadTooLarge, Unauthenticated
from core.ids import is_id
from workers.inference.api.errors import install_errors
from workers.inference.api.server import Worker
from workers.inference.tiers.pins import Pins

MOST_BODY_BYTES = 16 * 1024

Body = TypeVar("Body", bound=BaseModel)
_bearer = HTTPBearer(auto_error=False, scheme_name="AdminKey", description="The admin key of the worker's settings.")


class LoadLoraAdapter(BaseModel):
    """vLLM's body. `lora_path` may be left out; where it is given it has to be the memory's id again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: str
    lora_path: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: Literal[False] = False


class UnloadLoraAdapter(BaseModel):
    """vLLM's body; adapters have no numbers here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: str
    lora_int_id: None = None


def create_admin_app(worker: Worker, *admin_keys: SecretStr | None) -> FastAPI:
    """The operator's routes over a worker that may still be loading; each asks for one of `admin_keys`."""

    def admin(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        given = credentials.credentials if credentials is not None else ""
        if not is_one_of(given, *admin_keys):
            raise Unauthenticated("Only the admin may do that; send the admin key as 'Authorization: Bearer <key>'.")

    app = FastAPI(
        title="LatentBank inference worker, for its operator",
        dependencies=[Depends(admin)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    install_errors(app)

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> PlainTextResponse:
        """Loads a memory's current adapter and keeps it loaded."""
        body = await _read(request, LoadLoraAdapter)
        memory_id = _memory_id(body.lora_name)
        if body.lora_path not in (None, memory_id):
            raise InvalidRequest("lora_path is no path here: leave it out, or send the memory's id.", param="lora_path")
        await run_in_threadpool(_pins(worker).load, memory_id, in_place=body.load_inplace)
        return PlainTextResponse(f"Success: LoRA adapter '{memory_id}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> PlainTextResponse:
        """Lets go of it: requests under way go on with it, and the last one empties its slot."""
        memory_id = _memory_id((await _read(request, UnloadLoraAdapter)).lora_name)
        await run_in_threadpool(_pins(worker).unload, memory_id)
        return PlainTextResponse(f"Success: LoRA adapter '{memory_id}' removed successfully.")

    return app


def _pins(worker: Worker) -> Pins:
    worker.ready()
    assert worker.pins is not None
    return worker.pins


def _memory_id(name: str) -> str:
    if not is_id("mem", name):
        raise InvalidRequest("lora_name is a memory's id here (mem_…), never a path or a URL.", param="lora_name")
    return name


async def _read(request: Request, model: type[Body]) -> Body:
    """The body as `model`; raises `PayloadTooLarge` before more than `MOST_BODY_BYTES` are held, `InvalidRequest`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise PayloadTooLarge(f"The body is larger than the {MOST_BODY_BYTES} bytes that this port accepts.")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequest(f"{param or 'The body'}: {first['msg']}.", param=param) from None
