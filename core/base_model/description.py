"""What every process may know of a base model without loading it: `base.json` beside the prepared copy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import SetupError

FILE = "base.json"


@dataclass(frozen=True, slots=True)
class BaseDescription:
    """A prepared base model.

    `digest` covers weights, tokenizer and chat template; `context_tokens` is the window; `activation_tokens` are the
    ids of the chat template's assistant header, from which on adapters act.
    """

    name: str
    reference: str
    directory: str
    digest: str
    context_tokens: int
    activation_tokens: tuple[int, ...]

    @property
    def path(self) -> Path:
        return Path(self.directory)

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"


def directory_of(reference: str, base_dir: Path) -> Path:
    """The directory of the prepared copy of `reference`, named by a hash of the reference."""
    return base_dir / hashlib.sha256(reference.encode()).hexdigest()[:16]


def read_description(directory: Path) -> BaseDescription:
    """Reads `base.json`; raises `SetupError` where the copy is not there or not whole."""
    try:
        fields = json.loads((directory / FILE).read_text())
        fields["directory"] = str(directory)
        fields["activation_tokens"] = tuple(fields["activation_tokens"])
        return BaseDescription(**fields)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise SetupError(
            f"The base model is not prepared in {directory}; run: latentbank doctor --prepare"
        ) from problem


def write_description(description: BaseDescription) -> None:
    (description.path / FILE).write_text(json.dumps(asdict(description), indent=2))
