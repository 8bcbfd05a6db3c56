"""Parameters that several routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from core.errors import NotFound
from core.ids import Kind, is_id

_ID = "^{kind}_[a-z2-7]{{26}}$"
_AFTER = "Id of the last item already seen."

AfterMemory = Annotated[str | None, Query(pattern=_ID.format(kind="mem"), description=_AFTER)]
AfterJob = Annotated[str | None, Query(pattern=_ID.format(kind="job"), description=_AFTER)]
AfterKey = Annotated[str | None, Query(pattern=_ID.format(kind="key"), description=_AFTER)]
AfterTenant = Annotated[str | None, Query(pattern=_ID.format(kind="tenant"), description=_AFTER)]
OfMemory = Annotated[str | None, Query(pattern=_ID.format(kind="mem"), description="Only those of this memory.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Items per page.")]


def known_id(kind: Kind, text: str) -> str:
    """`text` if it can be an id of that kind; else there is nothing with it, and nobody needs to be asked."""
    if not is_id(kind, text):
        raise NotFound
    return text
