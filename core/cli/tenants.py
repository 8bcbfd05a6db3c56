"""`latentbank tenants create|change|show|list`, with the admin key."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from core.cli.client import open_admin_api
from core.cli.output import console, print_json, table, when
from core.errors import InvalidRequest
from core.settings import Settings

_FALLBACK = "text: memories may serve from their text where they have no adapter; none: they may not (default)."

_WEIGHT = "Its share of the distillation workers against other tenants, 0.001 to 1000"

_QUOTA = "a number, or 'default' for that of the settings."

app = typer.Typer(no_args_is_help=True, help="Make, change and list tenants (needs the admin key).")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the tenant is called.")],
    weight: Annotated[float | None, typer.Option(help=f"{_WEIGHT}; default 1.")] = None,
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
    weight: Annotated[float | None, typer.Option(help=f"{_WEIGHT}.")] = None,
    fallback: Annotated[str | None, typer.Option(help=_FALLBACK)] = None,
    false_activation: Annotated[
        float | None, typer.Option(help="How often the gate may let a memory speak that should not, 0 to 1.")
    ] = None,
    memories: Annotated[str | None, typer.Option(help=f"Most memories; {_QUOTA}")] = None,
    bytes_: Annotated[str | None, typer.Option("--bytes", help=f"Most bytes of them; {_QUOTA}")] = None,
    jobs_in_flight: Annotated[str | None, typer.Option(help=f"Most jobs at work at once; {_QUOTA}")] = None,
    requests_per_minute: Annotated[str | None, typer.Option(help=f"Most requests a minute; {_QUOTA}")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tenant as JSON.")] = False,
) -> None:
    """Change a tenant's settings; they hold from its next question, the weight from the next dispatch on."""
    wanted: dict[str, Any] = {"weight": weight, "fallback": fallback, "false_activation": false_activation}
    changes = {name: value for name, value in wanted.items() if value is not None}
    quotas = {
        "memories": memories,
        "bytes": bytes_,
        "jobs_in_flight": jobs_in_flight,
        "requests_per_minute": requests_per_minute,
    }
    own = {name: _quota(name, value) for name, value in quotas.items() if value is not None}
    if own:
        changes["quotas"] = own
    if not changes:
        raise InvalidRequest(
            "Say what to change: --weight, --fallback, --false-activation, or a quota such as --memories."
        )
    with open_admin_api(Settings()) as api:
        changed = api.change_tenant(tenant_id, changes)
    if as_json:
        print_json(changed)
    else:
        shown = {**changed, **changed.get("quotas", {})}
        told = ", ".join(f"{name} {_or_default(shown[name])}" for name in ({**changes, **own}) if name != "quotas")
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


@app.command()
def show(
    tenant_id: Annotated[str, typer.Argument(help="The tenant's id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the tenant as JSON.")] = False,
) -> None:
    """Show what a tenant uses, and the limits that hold for it."""
    with open_admin_api(Settings()) as api:
        found = api.tenant(tenant_id)
    if as_json:
        print_json(found)
        return
    shown = table(found["name"], "used", "limit", "of its own")
    for name, part in found["usage"].items():
        if isinstance(part, dict):
            limit = part["limit"]
            own = "yes" if found["quotas"].get(name) is not None else ""
            shown.add_row(name, str(part.get("used", "")), "none" if limit is None else str(limit), own)
    console().print(shown)


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


def _quota(name: str, value: str) -> int | None:
    if value == "default":
        return None
    if not value.isdecimal():
        raise InvalidRequest(f"--{name.replace('_', '-')} is a number, or 'default'.")
    return int(value)


def _or_default(value: Any) -> str:
    return "default" if value is None else str(value)
