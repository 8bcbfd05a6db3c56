"""What nobody may read in a log or on a terminal: a process's own secrets, keys by their shape, passwords in
addresses, and the rows that PostgreSQL quotes in its errors.

The last net: whoever logs or prints keeps secrets and texts out of it in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from core.settings import Settings

REDACTED = "[redacted]"

_SHAPES = re.compile(r"\blb_[A-Za-z0-9_-]{16,}|(?<=Bearer )\S+")
_USERINFO = re.compile(r"(?<=://)[^\s'\"]*(?=@)")
# What a row holds is a tenant's: "Key (title)=(…) already exists", "Failing row contains (…)".
_DETAIL = re.compile(r"(DETAIL|CONTEXT): [^\n]*")
_PIECES = re.compile(r"[/?#@:\[\]]+")
_LEAST = 4
"""Shorter ones would blacken words."""


class Redaction:
    """Of the secrets of these settings; without settings, of shapes alone."""

    def __init__(self, settings: Settings | None = None) -> None:
        secrets = sorted(set(secrets_of(settings)) if settings else set(), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, secrets))) if secrets else None

    def __call__(self, text: str) -> str:
        text = _SHAPES.sub(REDACTED, text)
        if "://" in text and "@" in text:
            text = _USERINFO.sub(REDACTED, text)
        if "DETAIL: " in text or "CONTEXT: " in text:
            text = _DETAIL.sub(rf"\1: {REDACTED}", text)
        return self._secrets.sub(REDACTED, text) if self._secrets else text


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret there is in the settings, also the pieces in which a broken address may be quoted."""
    yield from (secret for secret in _fields(settings) if len(secret) >= _LEAST)
    for url in (settings.database_url, settings.broker_url, settings.storage.url, settings.storage.endpoint or ""):
        found = _USERINFO.search(url)
        password = found[0].partition(":")[2] if found else ""
        for form in {password, unquote(password)}:
            yield from (part for part in (form, *_PIECES.split(form)) if len(part) >= _LEAST)


def _fields(model: BaseModel) -> Iterator[str]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _fields(value)
