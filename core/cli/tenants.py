"""`latentbank tenants create|list`, with the admin key."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from core.cli.client import open_admin_api
from core.cli.output import console, print_json, table, when
from core.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Make and list tenants (needs the admin key).")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the tenant is called.")],
    weight: Annotated[float | None, typer.Option(min=0.001, help="Its share of the workers; default 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print id and key as JSON.")] = False,
) -> None:
    """Make a tenant and show its key, this once."""
    with open_admin_api(Settings()) as api:
        made = api.create_tenant(name, weight)
    if as_json:
        print_json(made)
        return
    out = console()
    out.print(f"Tenant [bold]{escape(made['name'])}[/]: {made['id']}")
    out.print(f"Key: {made['api_key']}")
    out.print("[dim]It is kept only as a hash and not shown again; use it as LATENTBANK_API_KEY.[/]")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print them as a JSON list.")] = False) -> None:
    """List the tenants."""
    with open_admin_api(Settings()) as api:
        found = api.tenants()
    if as_json:
        print_json(found)
        return
    shown = table("id", "name", "weight", "made")
    for tenant in found:
        shown.add_row(
            tenant["id"], escape(tenant["name"]), str(tenant.get("weight", "–")), when(tenant.get("created_at"))
        )
    console().print(shown)
