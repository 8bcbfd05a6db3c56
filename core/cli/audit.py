"""`latentbank audit`: who did what, and when."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from core.cli.client import open_admin_api, open_api
from core.cli.output import console, print_json, table, when
from core.settings import Settings


def audit(
    action: Annotated[str | None, typer.Option(help="Only such deeds, such as memory.deleted.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only deeds to what has this id.")] = None,
    tenant_id: Annotated[
        str | None, typer.Option("--tenant", help="Of this tenant, also a deleted one (needs the admin key).")
    ] = None,
    most: Annotated[int, typer.Option("--limit", min=1, help="How many, the newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as a JSON list.")] = False,
) -> None:
    """Show who did what to the tenant's memories, settings and keys. Questions are not recorded."""
    filters = {"action": action, "subject": subject}
    wanted = {name: value for name, value in filters.items() if value is not None}
    with open_admin_api(Settings()) if tenant_id else open_api(Settings()) as api:
        found = api.audit(most, wanted, tenant_id)
    if as_json:
        print_json(found)
        return
    shown = table("when", "who", "what", "subject", "more")
    for one in found:
        more = ", ".join(f"{name} {value}" for name, value in one["data"].items())
        subject_id = f"{one['subject']['kind']} {one['subject']['id']}"
        shown.add_row(when(one["created_at"]), escape(one["actor"]), one["action"], escape(subject_id), escape(more))
    console().print(shown if found else "Nothing is recorded.")
