"""`latentbank up`: the embedded stack in the foreground, until Ctrl-C."""

from __future__ import annotations

import time

import typer
from rich.console import Console

from core.base_model.prepare import ensure_prepared
from core.cli.client import Api, ApiError, key_files
from core.cli.keys import API_KEY
from core.cli.output import console
from core.cli.stack import plan_stack, running_stack
from core.settings import Settings

_CHECK_SECONDS = 0.5


def up() -> None:
    """Run the whole stack on this machine, in the foreground; Ctrl-C stops it."""
    settings = Settings()
    out = console()
    prepare_base(settings, out)
    plan = plan_stack(settings, settings.data_dir)
    try:
        with running_stack(plan, lambda line: out.print(f"  [green]✓[/] {line}")) as children:
            _ensure_local_tenant(settings, plan.gateway_url, plan.admin_key, out)
            out.print(f"\n[bold]LatentBank answers at {plan.gateway_url}[/]  (logs: {plan.data_dir / 'logs'})")
            out.print("In another terminal:  latentbank remember FILE   latentbank ask 'QUESTION'   latentbank doctor")
            out.print("Ctrl-C stops it.")
            while True:
                children.check()
                time.sleep(_CHECK_SECONDS)
    except KeyboardInterrupt:
        out.print("stopped")
        raise typer.Exit(0) from None


def prepare_base(settings: Settings, out: Console) -> None:
    """Makes the fast-loading copy of the base model where it is missing; half a minute, once."""
    settings.base_dir.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with out.status("Preparing the base model (once, about half a minute) …"):
        description = ensure_prepared(settings.base_model, settings.base_dir)
    took = time.monotonic() - started
    if took > 1:
        out.print(f"  [green]✓[/] base model {description.name} prepared in {took:.0f} s")


def _ensure_local_tenant(settings: Settings, gateway_url: str, admin_key: str, out: Console) -> None:
    """The tenant that this machine's CLI acts for: made on the first start, and again where its key is void."""
    keys = key_files(settings)
    kept = keys.read(API_KEY)
    if kept is not None and _is_valid(gateway_url, kept):
        return
    with Api(gateway_url, admin_key) as admin:
        made = admin.create_tenant("local")
    keys.keep(API_KEY, made["api_key"])
    out.print(f"  [green]✓[/] tenant 'local' made; its key is kept in {keys.directory}")


def _is_valid(gateway_url: str, key: str) -> bool:
    with Api(gateway_url, key) as api:
        try:
            api.models()
        except ApiError as refused:
            if refused.answered_status in (401, 403):
                return False
            raise
    return True
