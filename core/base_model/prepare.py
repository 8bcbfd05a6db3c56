"""Makes a fast-loading copy of a base model, once, whoever asks first.

`python -m core.base_model.prepare` prepares the base of the settings; torch-free processes run it as a child.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from core.base_model.description import (
    FILE,
    BaseDescription,
    directory_of,
    read_description,
    write_description,
)
from core.base_model.identity import base_digest
from core.base_model.reference import locate
from core.errors import SetupError
from core.settings import Settings


def ensure_prepared(reference: str, base_dir: Path) -> BaseDescription:
    """The description of the prepared copy of `reference`, made first if it is missing. Never imports torch itself.

    Raises `SetupError` with the child's last words where the copy can't be made.
    """
    directory = directory_of(reference, base_dir)
    if not (directory / FILE).exists():
        done = subprocess.run(
            [sys.executable, "-m", "core.base_model.prepare", reference, str(base_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SetupError(f"The base model {reference} can't be prepared: {done.stderr.strip()[-600:]}")
    return read_description(directory)


def prepare(reference: str, base_dir: Path) -> BaseDescription:
    """Loads `reference` with transformers and saves it as safetensors with its tokenizer under `base_dir`.

    Safe to call from several processes at once: one works, the others wait; the copy appears whole or not at all.
    """
    target = directory_of(reference, base_dir)
    base_dir.mkdir(parents=True, exist_ok=True)
    with _lock(base_dir / f"{target.name}.lock"):
        if (target / FILE).exists():
            return read_description(target)
        partial = base_dir / f"{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        description = _convert(reference, partial)
        write_description(replace(description, directory=str(partial)))
        partial.rename(target)
        return read_description(target)


def _convert(reference: str, directory: Path) -> BaseDescription:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from core.base_model.chat import Chat

    files = locate(reference)
    extra = {"gguf_file": files.gguf_file} if files.gguf_file else {"use_safetensors": True}
    named = {"gguf_file": files.gguf_file} if files.gguf_file else {}
    # A hub id may name a revision itself; which base is trusted is the operator's choice, and its digest is kept.
    tokenizer = AutoTokenizer.from_pretrained(files.directory, **named)  # nosec B615
    model = AutoModelForCausalLM.from_pretrained(files.directory, dtype=torch.float32, **extra)  # nosec B615
    # A dequantised GGUF still says that it is quantised, and then can't be saved.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return BaseDescription(
        name=_name(reference),
        reference=reference,
        directory=str(directory),
        digest=base_digest(directory, tokenizer.chat_template or ""),
        context_tokens=int(model.config.max_position_embeddings),
        activation_tokens=Chat(tokenizer).ask("?").activation,
    )


def _name(reference: str) -> str:
    """A model name for the API, such as `SmolLM2-135M-Instruct`."""
    return Path(reference).name.removesuffix(".gguf").removesuffix(".Q4_1")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    if len(sys.argv) == 3:
        prepare(sys.argv[1], Path(sys.argv[2]))
    else:
        settings = Settings()
        prepare(settings.base_model, settings.base_dir)
