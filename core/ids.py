"""Identifiers: a prefix that says what it names, and 128 random bits in lower-case base 32."""

from __future__ import annotations

import base64
import re
import secrets
from typing import Literal

Kind = Literal["tenant", "key", "dek", "mem", "job", "worker", "req", "run", "del", "truth"]

_PATTERN = re.compile(r"[a-z]+_[a-z2-7]{26}")


def new_id(kind: Kind) -> str:
    """A fresh id such as `mem_3q2w…`; 26 base-32 characters after the prefix, safe in URLs, paths and keys."""
    text = base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
    return f"{kind}_{text}"


def is_id(kind: Kind, text: str) -> bool:
    return text.startswith(f"{kind}_") and _PATTERN.fullmatch(text) is not None
