"""The operations of the OpenAPI document, for tests that must hold for every one of them, also those to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Who = Literal["anybody", "tenant", "admin"]


@dataclass(frozen=True, slots=True)
class Operation:
    """`scope` is what a tenant's key needs. `parameters` are by place and name: `("query", "after")`."""

    method: str
    path: str
    who: Who
    scope: str | None
    parameters: Mapping[tuple[str, str], Mapping[str, Any]]
    takes_body: bool
    streams: bool

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def names_in(self, place: str) -> list[str]:
        return [name for where, name in self.parameters if where == place]


def operations(document: Mapping[str, Any]) -> list[Operation]:
    return [
        _operation(method.upper(), path, declared)
        for path, methods in document["paths"].items()
        for method, declared in methods.items()
    ]


def _operation(method: str, path: str, declared: Mapping[str, Any]) -> Operation:
    who: Who = "anybody"
    scope = None
    for requirement in declared.get("security", ()):
        ((scheme, scopes),) = requirement.items()
        who = "tenant" if scheme == "TenantKey" else "admin"
        if who == "tenant":
            (scope,) = scopes
    return Operation(
        method,
        path,
        who,
        scope,
        {(one["in"], one["name"]): one for one in declared.get("parameters", ())},
        "requestBody" in declared,
        "text/event-stream" in declared["responses"].get("200", {}).get("content", {}),
    )
