"""Bodies that are as an OpenAPI document's schema says but for one value in one place, for every place that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
WORD = "harbour"


class Filling:
    """Over the part of JSON Schema that pydantic writes."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._schemas = document["components"]["schemas"]

    def bodies(self, schema: Schema, value: str) -> Iterator[Any]:
        """`value` in the place of each string and each list, as an unknown field's name, and as what one holds."""
        schema = self._resolved(schema)
        if "anyOf" in schema:
            for part in schema["anyOf"]:
                yield from self.bodies(part, value)
        elif schema.get("type") == "object":
            yield from self._objects(schema, value)
        elif schema.get("type") == "array":
            yield value
            yield from ([inner] for inner in self.bodies(schema["items"], value))
        elif schema.get("type", "string") == "string":
            yield value

    def _objects(self, schema: Schema, value: str) -> Iterator[dict[str, Any]]:
        properties = schema.get("properties", {})
        for name, part in properties.items():
            for inner in self.bodies(part, value):
                yield {**self._least(schema, name), name: inner}
        least = self._least(schema)
        yield {**least, value: value}
        yield {**least, "url": value}

    def _least(self, schema: Schema, wanted: str | None = None) -> dict[str, Any]:
        """The least object there can be, of the alternative that has the property `wanted`."""
        alternatives = [one["required"] for one in schema.get("oneOf", ())]
        chosen = next((names for names in alternatives if wanted in names), alternatives[0] if alternatives else ())
        names = (*schema.get("required", ()), *chosen)
        return {name: self._valid(schema["properties"][name]) for name in names}

    def _valid(self, schema: Schema) -> Any:
        schema = self._resolved(schema)
        if "anyOf" in schema:
            return self._valid(schema["anyOf"][0])
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                return self._least(schema)
            case "array":
                return [self._valid(schema["items"])]
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return False
            case _:
                return schema.get("const", WORD)

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        return schema
