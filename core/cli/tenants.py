"""`latentbank tenants create|change|list`, with the admin key."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from core.cli.client import open_admin_api
from core.cli.output import console, print_json, table, when
from core.errors import InvalidRequest
from core.settings import Settings

_FALLBACK = "text: memories may serve from their text where they have no adapter; none: they may not (default)."

app = typer.Typer(no_args_is_help=True, help="Make, change and list tenants (needs the admin key).")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the tenant is called.")],
    weight: Annotated[float | None, typer.Option(min=0.001, help="Its share of the workers; default 1.")] = None,
    fallback: Annotated[str | None, typer.Option(help=_FALLBACK)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print id and key as JSON.")] = False,
) -> None:
    """Make a tenant and show its key, this once."""
    with open_admin_api(Settings()) as api:
        made = api.create_tenant(name, weight, fallback)
    if as_json:
        print_json(made)
        return
    out = console()
    out.print(f"Tenant [bold]{escape(made['name'])}[/]: {made['id']}")
    out.print(f"Key: {made['api_key']}")
    out.print("[dim]It is kept only as a hash and not shown again; use it as LATENTBANK_API_KEY.[/]")


@app.command()
def change(
    tenant_id: Annotated[str, typer.Argument(help="The tenant's id.")],
    fallback: Annotated[str | None, typer.Option(help=_FALLBACK)] = None,
    false_activation: Annotated[
        float | None, typer.Option(help="How often the gate may let a memory speak that should not, 0 to 1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tenant as JSON.")] = False,
) -> None:
    """Change a tenant's settings; they hold from its next question on."""
    wanted = {"fallback": fallback, "false_activation": false_activation}
    changes = {name: value for name, value in wanted.items() if value is not None}
    if not changes:
        raise InvalidRequest("Say what to change: --fallback or --false-activation.")
    with open_admin_api(Settings()) as api:
        changed = api.change_tenant(tenant_id, changes)
    if as_json:
        print_json(changed)
    else:
        told = ", ".join(f"{name} {changed[name]}" for name in changes)
        console().print(f"Tenant {escape(changed['name'])}: {told}")


@app.command()
def delete(
    tenant_id: Annotated[str, typer.Argument(help="The tenant's id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the deletion as JSON; does not ask back.")] = False,
) -> None:
    """Delete a tenant with all that is its: its keys stop at once, and its data can't be read again."""
    with open_admin_api(Settings()) as api:
        if not (yes or as_json):
            typer.confirm(f"Delete the tenant {tenant_id} and all of its memories for good?", abort=True)
        gone = api.delete_tenant(tenant_id)
    if as_json:
        print_json(gone)
    else:
        console().print(f"Tenant {tenant_id} is deleted; its bytes follow within minutes.", markup=False)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print them as a JSON list.")] = False) -> None:
    """List the tenants."""
    with open_admin_api(Settings()) as api:
        found = api.tenants()
    if as_json:
        print_json(found)
        return
    shown = table("id", "name", "weight", "fallback", "made")
    for tenant in found:
        shown.add_row(
            tenant["id"],
            escape(tenant["name"]),
            str(tenant.get("weight", "–")),
            str(tenant.get("fallback", "–")),
            when(tenant.get("created_at")),
        )
    console().print(shown)
