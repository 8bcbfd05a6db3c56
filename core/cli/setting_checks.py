"""The doctor's look at settings, tables and clocks: what would keep a process from starting, before one is started."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from core.cli.findings import Finding
from core.configuration import PROCESSES, contradictions, doubts, unknown
from core.errors import LatentBankError
from core.settings import Settings

_ENV_FILE = Path(".env")


def names(_: Settings) -> Finding:
    written = [*os.environ, *(dotenv_values(_ENV_FILE) if _ENV_FILE.is_file() else ())]
    wrong = unknown(written)
    if wrong:
        return Finding("settings' names", "missing", " ".join(wrong), "Correct the environment, or .env.")
    return Finding("settings' names", "ok", "all of them are known")


def values(settings: Settings) -> Finding:
    """What any of the four processes would refuse; keys that 'latentbank up' makes by itself are not asked for."""
    if settings.internal_token is None:
        settings = settings.model_copy(update={"internal_token": SecretStr("up makes one")})
    wrong = dict.fromkeys(sentence for process in PROCESSES for sentence in contradictions(settings, process))
    if wrong:
        return Finding("settings", "missing", " ".join(wrong), "Correct the environment, or .env.")
    if strange := doubts(settings):
        return Finding("settings", "warning", " ".join(strange), "Set it higher, unless it is meant.")
    return Finding("settings", "ok", "they hold together")


def tables(settings: Settings) -> Finding:
    """Whether the database has this code's tables. One that can't be asked is another finding."""
    try:
        from core.truth.database import Database
        from core.truth.schema import schema_of

        database = Database(settings.resolved_database_url)
        schema = schema_of(database)
        database.dispose()
    except LatentBankError as foreign:
        return Finding("tables", "missing", "not LatentBank's", foreign.message)
    except Exception:  # noqa: BLE001 - the database's own finding says what is wrong with it
        return Finding("tables", "warning", "not seen", "Mend the database first.")
    if schema.newer:
        return Finding("tables", "warning", f"at {schema.current}, newer than this code ({schema.head})", "Upgrade it.")
    if schema.pending:
        how = "The next start migrates them." if settings.migrate_at_start else "Run: latentbank migrate upgrade"
        return Finding("tables", "warning", f"at {schema.current or 'none'}, of {schema.head}", how)
    return Finding("tables", "ok", f"at {schema.current}")


def clock(settings: Settings) -> Finding:
    try:
        from core.preflight import SKEW_SECONDS, skew_seconds
        from core.truth.database import Database

        database = Database(settings.resolved_database_url)
        skew = skew_seconds(database)
        database.dispose()
    except Exception:  # noqa: BLE001 - the database's own finding says what is wrong with it
        return Finding("clock", "warning", "not compared", "Mend the database first.")
    if abs(skew) > SKEW_SECONDS:
        return Finding("clock", "warning", f"the database's is {skew:+.1f} s off this machine's", "Set both by NTP.")
    return Finding("clock", "ok", "this machine's and the database's agree")
