"""`latentbank migrate`: the version of the database's tables, for operators who don't leave that to start-ups."""

from __future__ import annotations

from typing import Annotated

import typer

from core.cli.output import console, print_json
from core.settings import Settings

app = typer.Typer(help="The version of the database's tables.", no_args_is_help=True)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
) -> None:
    """Say which revision the database has and which ones are to come; ends with 1 where there are any."""
    from core.truth.database import Database
    from core.truth.schema import schema_of

    database = Database(Settings().resolved_database_url)
    schema = schema_of(database)
    database.dispose()
    if as_json:
        print_json({"current": schema.current, "head": schema.head, "pending": list(schema.pending)})
    else:
        out = console()
        out.print(f"The database is at {schema.current or 'no revision'}, this code at {schema.head}.")
        if schema.newer:
            out.print("A newer LatentBank has migrated it; this one works with it.")
        elif schema.pending:
            out.print(f"To come: {', '.join(schema.pending)}. Run: latentbank migrate upgrade")
    if schema.pending:
        raise typer.Exit(1)


@app.command()
def upgrade() -> None:
    """Bring the tables to this code's revision, beside processes that go on working."""
    from core.truth.database import Database
    from core.truth.schema import schema_of
    from core.truth.schema import upgrade as bring

    database = Database(Settings().resolved_database_url)
    before = schema_of(database)
    bring(database)
    after = schema_of(database)
    database.dispose()
    console().print(f"The database was at {before.current or 'no revision'} and is at {after.current}.")
