"""The keys of a local stack: files in `<data_dir>/secrets`, readable by their owner alone."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

ADMIN_KEY = "admin_key"
INTERNAL_TOKEN = "internal_token"  # nosec B105
API_KEY = "api_key"
"""The key of the tenant that the local CLI acts for."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Reads and keeps keys by name; a key never appears in a `repr` or a log."""

    directory: Path

    def read(self, name: str) -> str | None:
        """The key, or None where there is none."""
        try:
            return (self.directory / name).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def read_or_make(self, name: str) -> str:
        kept = self.read(name)
        if kept is None:
            kept = secrets.token_urlsafe(32)
            self.keep(name, kept)
        return kept

    def keep(self, name: str, key: str) -> None:
        """Writes the key whole or not at all; mode 0600 from the first byte on."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        partial = self.directory / f".{name}.{os.getpid()}"
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(key + "\n")
        partial.replace(self.directory / name)
