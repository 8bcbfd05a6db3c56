"""What a process looks at before it begins: the machine and the servers that its settings name.

`refuse` stops a start that can't come to anything; what is only away for now, or only strange, is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Thread

from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from core.base_model.description import FILE, directory_of
from core.base_model.reference import locate
from core.configuration import Process, contradictions, doubts
from core.errors import LatentBankError, Misconfigured, SetupError, Unavailable
from core.logs import get_logger
from core.machine import taken, writable
from core.settings import Settings
from core.storage.opening import open_store
from core.storage.ownership import claim_directory, claim_store
from core.truth.database import Database
from core.truth.identity import identity_of
from core.truth.schema import ready_for_work

SKEW_SECONDS = 5.0
"""How far this machine's clock may be from the database's; leases go by the latter's, certificates and logs by both."""
_STORE_SECONDS = 10.0
_log = get_logger(__name__)


def refuse(settings: Settings, process: Process) -> None:
    """Raises `Misconfigured` or `SetupError` with all that was found, `Unavailable` where the database is away."""
    found = contradictions(settings, process)
    if not found:
        for look in (_data_dir, _node_cache, _models, _ports):
            found.extend(look(settings, process))
    if found:
        raise Misconfigured(" ".join(found))
    truth_id = _database(settings)
    _store(settings, truth_id)
    if process == "inference":
        claim_directory(settings.resolved_node_cache_dir, truth_id)
    for doubt in doubts(settings):
        _log.warning("a setting is hardly meant", problem=doubt)


def skew_seconds(database: Database) -> float:
    """How far the database's clock is ahead of this machine's, at least."""
    with database.read() as connection:
        database.now(connection)  # whatever connecting takes is not between the clocks
        before = datetime.now(UTC)
        told = database.now(connection)
        after = datetime.now(UTC)
    if before <= told <= after:
        return 0.0
    return (told - (after if told > after else before)).total_seconds()


def _data_dir(settings: Settings, _: Process) -> Iterator[str]:
    if (problem := writable(settings.data_dir)) is not None:
        yield (
            f"{settings.data_dir} can't be written to ({problem}); make it writable, or set LATENTBANK_DATA_DIR to a "
            "directory that is."
        )


def _node_cache(settings: Settings, process: Process) -> Iterator[str]:
    directory = settings.resolved_node_cache_dir
    if process == "inference" and (problem := writable(directory)) is not None:
        yield (
            f"{directory} can't be written to ({problem}); make it writable, or set LATENTBANK_SERVING__NODE_CACHE_DIR "
            "to a directory that is."
        )


def _models(settings: Settings, process: Process) -> Iterator[str]:
    """The base only where there is no prepared copy of it: that is all that is used from then on."""
    wanted: list[tuple[str, str]] = []
    if process != "orchestrator" and not (directory_of(settings.base_model, settings.base_dir) / FILE).exists():
        wanted.append(("LATENTBANK_BASE_MODEL", settings.base_model))
    if process == "inference":
        wanted.append(("LATENTBANK_ENCODER", settings.encoder))
    for name, reference in wanted:
        try:
            locate(reference)
        except SetupError as problem:
            yield f"{name}: {problem.message}"


def _ports(settings: Settings, process: Process) -> Iterator[str]:
    serving = settings.serving
    listens: dict[Process, tuple[str, str, int]] = {
        "gateway": ("LATENTBANK_GATEWAY__PORT", settings.gateway.host, settings.gateway.port),
        "orchestrator": (
            "LATENTBANK_ORCHESTRATOR__METRICS_PORT",
            settings.orchestrator.host,
            settings.orchestrator.metrics_port,
        ),
        "distillation": (
            "LATENTBANK_DISTILLATION__METRICS_PORT",
            settings.distillation.host,
            settings.distillation.metrics_port,
        ),
        "inference": ("LATENTBANK_SERVING__PORT", serving.host, serving.port),
    }
    places = [listens[process]]
    if process == "inference" and serving.admin_port is not None:
        places.append(("LATENTBANK_SERVING__ADMIN_PORT", serving.admin_host, serving.admin_port))
    for name, host, port in places:
        if (problem := taken(host, port)) is not None:
            yield f"Nothing can listen on {host}:{port} ({problem}); set {name} to a free port."


def _database(settings: Settings) -> str:
    """The truth's id."""
    try:
        database = Database(settings.resolved_database_url)
    except (ArgumentError, NoSuchModuleError, ValueError) as problem:
        raise Misconfigured(f"LATENTBANK_DATABASE_URL can't be used: {problem}") from problem
    try:
        skew = skew_seconds(database)
        ready_for_work(database, migrate=settings.migrate_at_start)
        with database.begin() as connection:
            truth_id = identity_of(connection)
    except SQLAlchemyError as problem:
        said = str(getattr(problem, "orig", problem)).strip().splitlines()[:1]
        raise Unavailable(
            f"The database of LATENTBANK_DATABASE_URL does not answer ({''.join(said)}); start it, or correct the URL."
        ) from problem
    finally:
        database.dispose()
    if abs(skew) > SKEW_SECONDS:
        _log.warning(
            "this machine's clock is not the database's; set both by NTP", database_ahead_seconds=round(skew, 1)
        )
    return truth_id


def _store(settings: Settings, truth_id: str) -> None:
    """Raises `SetupError` where the store can't work as it is set; one that is only away may come back."""
    problems: list[LatentBankError] = []
    store = open_store(settings)

    def ask() -> None:
        store.check()
        claim_store(store, truth_id)

    asking = Thread(target=_caught(ask, problems), daemon=True)
    asking.start()
    asking.join(_STORE_SECONDS)
    if asking.is_alive():
        problems.append(Unavailable("It has not answered in ten seconds."))
    for problem in problems:
        if isinstance(problem, SetupError):
            raise problem
        _log.warning("the object store does not answer yet", problem=problem.message)


def _caught(call: Callable[[], object], problems: list[LatentBankError]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except LatentBankError as problem:
            problems.append(problem)

    return run
