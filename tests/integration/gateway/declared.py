"""Holds every answer against the OpenAPI document: path, status, content type, and the JSON against its schema.

The validator knows the part of JSON Schema that pydantic writes.
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

Schema = dict[str, Any]
# What no operation declares because the router answers it before any operation is found.
_UNDECLARED = {404, 405}
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


class Declared:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, str, int]] = set()

    def check(self, response: httpx.Response) -> None:
        """An httpx event hook for answers; raises `AssertionError` where one is not as declared."""
        method = response.request.method.lower()
        template = self._template(response.request.url.path)
        operation = self.document["paths"].get(template, {}).get(method)
        if operation is None:
            assert response.status_code in _UNDECLARED, f"{method} {template} is not declared"
            return
        declared = operation["responses"].get(str(response.status_code))
        assert declared is not None, f"{method} {template} does not declare {response.status_code}"
        self.seen.add((method, template, response.status_code))
        media_type = response.headers["content-type"].split(";")[0]
        assert media_type in declared["content"], f"{method} {template} does not declare {media_type}"
        if media_type == "application/json":
            response.read()
            problems = self.problems(declared["content"][media_type]["schema"], response.json())
            assert not problems, f"{method} {template} {response.status_code}: {problems}"

    def problems(self, schema: Schema, value: Any, at: str = "$") -> list[str]:
        """What in `value` is not as `schema` says."""
        if "$ref" in schema:
            return self.problems(self.document["components"]["schemas"][schema["$ref"].split("/")[-1]], value, at)
        found: list[str] = []
        for parts, most in ((schema.get("anyOf"), None), (schema.get("oneOf"), 1)):
            if parts is not None:
                fitting = sum(not self.problems(part, value, at) for part in parts)
                if fitting == 0 or (most is not None and fitting > most):
                    found.append(f"{at}: fits {fitting} of {len(parts)} alternatives")
        if "const" in schema and value != schema["const"]:
            found.append(f"{at}: is not {schema['const']!r}")
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{at}: is none of {schema['enum']}")
        kind = schema.get("type")
        if kind is not None and (
            not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
        ):
            return [*found, f"{at}: is not of type {kind}"]
        if isinstance(value, dict):
            found += self._object_problems(schema, value, at)
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                found += self.problems(schema["items"], item, f"{at}[{index}]")
        if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
            found.append(f"{at}: does not match {schema['pattern']}")
        return found

    def _object_problems(self, schema: Schema, value: dict[str, Any], at: str) -> list[str]:
        properties = schema.get("properties", {})
        found = [f"{at}: lacks {name}" for name in schema.get("required", ()) if name not in value]
        for name, part in value.items():
            rest = schema.get("additionalProperties", True)
            if name in properties:
                found += self.problems(properties[name], part, f"{at}.{name}")
            elif isinstance(rest, dict):
                found += self.problems(rest, part, f"{at}.{name}")
            elif rest is False or (properties and "additionalProperties" not in schema):
                # Answers say nothing that is not declared, although JSON Schema would let them unless told otherwise.
                found.append(f"{at}: {name} is not declared")
        return found

    def _template(self, path: str) -> str:
        if path in self.document["paths"]:
            return path
        for template in self.document["paths"]:
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                return str(template)
        return path


def as_json(document: Any) -> str:
    return json.dumps(document, sort_keys=True)
