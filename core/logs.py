"""Structured logs: one line per event on stderr, JSON where nobody watches, that never carry a key or a context's text.

Records of other libraries (uvicorn, celery, alembic) come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import Processor

from core.redaction import REDACTED, Redaction
from core.settings import Settings

_SECRET_NAMES = frozenset(
    {
        *("api_key", "admin_key", "admin_key_also", "authorization", "internal_token", "password"),
        *("access_key", "master_key", "old_master_keys", "text", "messages", "context"),
    }
)
# These repeat requests, headers, messages or rows at INFO and DEBUG; what matters of them is logged by their callers.
_QUIET = (
    *("httpx", "httpcore", "boto3", "botocore", "s3transfer", "urllib3", "amqp", "kombu", "asyncio", "filelock"),
    *("sqlalchemy", "psycopg", "redis", "transformers"),
)


def configure_logs(process: str, settings: Settings) -> None:
    """Sends this process's logs to stderr: JSON unless stderr is a terminal, or as `settings.log_json` says.

    `process` is the name that every line carries. What ends the process is logged too. May be called again; the last
    call counts.
    """
    hide = Redaction(settings)
    as_json = settings.log_json if settings.log_json is not None else not sys.stderr.isatty()
    level = logging.getLevelName(settings.log_level.upper())
    before: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _named(process),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(as_json, hide)],
        )
    )
    sys.excepthook = _log_the_end
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if isinstance(level, int) else logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose methods take an event and fields: `log.info("job claimed", epoch=3)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bind(**ids: str | None) -> Iterator[None]:
    """Adds ids (`request_id`, `job_id`, `tenant_id`, …) to every line logged inside, also across `await`."""
    with bound_contextvars(**{name: value for name, value in ids.items() if value is not None}):
        yield


def redacting(hide: Redaction) -> Processor:
    """The processor that keeps keys and texts out of the logs, by the field's name and by what the value holds."""

    def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in event.items():
            event[name] = _redacted(name, value, hide)
        return event

    return redact


class _ToStderr(logging.Handler):
    """Writes to whatever `sys.stderr` is at the time, which tests and the CLI's progress bars exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - logging never takes its caller down; this prints why, once per record
            self.handleError(record)


def _log_the_end(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    get_logger(__name__).critical("the process ends", exc_info=(kind, problem, trace))


def _redacted(name: str, value: Any, hide: Redaction) -> Any:
    if name.lower() in _SECRET_NAMES or name.lower().startswith("secret"):
        return REDACTED
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {key: _redacted(str(key), inner, hide) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", inner, hide) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # Whatever it is, it is shown as this.
    return hide(str(value))


def _rendering(as_json: bool, hide: Redaction) -> list[Processor]:
    # Plain tracebacks: the dressed-up ones print the frames' local variables, keys and texts among them.
    before: list[Processor] = [structlog.processors.format_exc_info, redacting(hide)]
    if as_json:
        return [*before, structlog.processors.JSONRenderer(default=str)]
    formatter = structlog.dev.plain_traceback
    return [*before, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=formatter)]


def _named(process: str) -> Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return add
