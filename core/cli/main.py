"""The command line: `latentbank`."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from core.cli import (
    api_keys,
    ask,
    audit,
    backup,
    demo,
    doctor,
    evaluate,
    export,
    jobs,
    memories,
    migrate,
    remember,
    tenants,
    up,
)
from core.cli.output import console
from core.configuration import sentences
from core.errors import LatentBankError

app = typer.Typer(
    name="latentbank",
    help="A long-term memory for language models that lives in weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(demo.demo)
app.command()(remember.remember)
app.command()(ask.ask)
app.command()(memories.memories)
app.command()(memories.forget)
app.command()(memories.deletion)
app.command()(export.export)
app.command()(jobs.jobs)
app.add_typer(api_keys.app, name="keys")
app.command()(audit.audit)
app.add_typer(tenants.app, name="tenants")
app.command()(doctor.doctor)
app.add_typer(migrate.app, name="migrate")
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(backup.verify)
app.command("eval")(evaluate.evaluate)


def main() -> None:
    """Runs one command; an error of ours is one message on stderr and exit code 1, never a traceback."""
    try:
        app()
    except LatentBankError as problem:
        console(stderr=True).print(f"latentbank: {problem.message}", markup=False)
        sys.exit(1)
    except ValidationError as wrong:
        console(stderr=True).print(f"latentbank: {' '.join(sentences(wrong))}", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
