"""`latentbank keys list|issue|rotate|revoke`: a tenant's own, or with the admin key any tenant's."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from core.cli.client import Api, Json, key_files, open_admin_api, open_api
from core.cli.keys import API_KEY
from core.cli.output import console, print_json, table, when
from core.credentials import key_id, key_sha256
from core.settings import Settings

OfTenant = Annotated[
    str | None, typer.Option("--tenant", help="Of this tenant (needs the admin key); default: your own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Days = Annotated[float | None, typer.Option("--days", min=0.001, help="It opens for so long; default: without end.")]
_DAY = 24 * 3600

app = typer.Typer(no_args_is_help=True, help="Issue, list, rotate and revoke API keys.")


@app.command("list")
def list_(tenant_id: OfTenant = None, as_json: AsJson = False) -> None:
    """List the keys, newest first, also those that open nothing any more; never the keys themselves."""
    with _api(tenant_id) as api:
        found = api.keys(tenant_id)
    if as_json:
        print_json(found)
        return
    shown = table("id", "name", "scopes", "opens", "made", "used", "ends")
    for key in found:
        ends = [at for at in (key["expires_at"], key["revoked_at"]) if at is not None]
        shown.add_row(
            key["id"],
            escape(key["name"]) or "–",
            " ".join(key["scopes"]),
            "yes" if key["active"] else "no",
            when(key["created_at"]),
            when(key["last_used_at"]),
            when(min(ends, default=None)),
        )
    console().print(shown)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="ingest, query, read or admin; may be repeated; default: all.")
    ] = None,
    days: Days = None,
    tenant_id: OfTenant = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key and show it, this once."""
    fields: Json = {"name": name} | ({"scopes": scope} if scope else {}) | _lifetime(days)
    with _api(tenant_id) as api:
        _show(api.issue_key(fields, tenant_id), as_json)


@app.command()
def rotate(
    old: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id (key_…), not the key.")],
    grace_hours: Annotated[float, typer.Option(min=0, help="How long the old key opens beside the new one.")] = 24.0,
    days: Days = None,
    tenant_id: OfTenant = None,
    as_json: AsJson = False,
) -> None:
    """Issue a successor with the same scopes; where the old key is this machine's own, its file has the new one."""
    fields: Json = {"grace_seconds": round(grace_hours * 3600)} | _lifetime(days)
    files = key_files(Settings())
    with _api(tenant_id) as api:
        made = api.rotate_key(old, fields, tenant_id)
    own = files.read(API_KEY)
    if own is not None and key_id(key_sha256(own)) == old:
        files.keep(API_KEY, made["api_key"])
    _show(made, as_json)


@app.command()
def revoke(
    old: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id (key_…), not the key.")],
    tenant_id: OfTenant = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: it opens nothing from now on."""
    with _api(tenant_id) as api:
        gone = api.revoke_key(old, tenant_id)
    if as_json:
        print_json(gone)
    else:
        console().print(f"{old} is revoked.")


def _api(tenant_id: str | None) -> Api:
    return open_admin_api(Settings()) if tenant_id else open_api(Settings())


def _lifetime(days: float | None) -> Json:
    return {} if days is None else {"expires_in_seconds": round(days * _DAY)}


def _show(made: Json, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    out = console()
    out.print(f"Key {made['id']} with the scopes {', '.join(made['scopes'])}, until {when(made['expires_at'])}")
    out.print(f"Key: {made['api_key']}", markup=False)
    out.print("[dim]It is kept only as a hash and not shown again; use it as LATENTBANK_API_KEY.[/]")
