"""The base model's identity: one digest over weights, tokenizer and chat template."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_digest(directory: Path, chat_template: str) -> str:
    """`sha256:<hex>` over every safetensors file, `tokenizer.json` and the chat template, each with its name."""
    total = hashlib.sha256()
    for path in [*sorted(directory.glob("*.safetensors")), directory / "tokenizer.json"]:
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    total.update(b"chat_template\0" + chat_template.encode())
    return f"sha256:{total.hexdigest()}"
