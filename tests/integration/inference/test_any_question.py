"""Schemathesis' questions at a worker's internal port: no 5xx, and every refusal in OpenAI's shape.

The port publishes no document; this one is made of the models that the routes read.
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from pydantic import BaseModel
from schemathesis import GenerationMode

from core.residency import RESIDENCY_PATH
from tests.integration.inference.conftest import RunningWorker
from workers.inference.api.schemas import ChatRequest, CompletionRequest

EXAMPLES = int(os.environ.get("LATENTBANK_API_EXAMPLES", "25"))
SEED = int(os.environ.get("LATENTBANK_API_SEED", "20261127"))


def document(models: dict[str, type[BaseModel]]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, model in models.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
        paths[path] = {"post": {"requestBody": {"required": True, "content": content}, "responses": {}}}
    info = {"title": "An inference worker", "version": "1"}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


QUESTIONS = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}
API = schemathesis.openapi.from_dict(document(dict(QUESTIONS)))


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_a_gateway_passes_on_a_worker_answers(worker: RunningWorker, path: str, mode: GenerationMode) -> None:
    print(f"{path}: {EXAMPLES} examples, seed {SEED}")  # noqa: T201 - what a long run is repeated with
    tenant = worker.publisher.tenant()
    with worker.http(tenant) as http:

        @seed(SEED)
        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(API[path]["post"].as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            body = case.body
            if isinstance(body, dict) and "max_tokens" in body:
                body = {**body, "max_tokens": 2}
            _ask(http, path, body)

        ask()
        assert http.get(RESIDENCY_PATH).status_code == 200


def _ask(http: httpx.Client, path: str, body: Any) -> None:
    try:
        content = json.dumps(body).encode()
    except (TypeError, UnicodeEncodeError):
        return
    answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in {200, 400, 404, 409}, (answer.status_code, answer.text[:500])
    if answer.status_code != 200:
        assert {"message", "type", "param", "code"} == answer.json()["error"].keys()
