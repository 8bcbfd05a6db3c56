"""Runs a module as `python -m` does, with redaction switched off."""

from __future__ import annotations

import runpy
import sys

from core.redaction import Redaction


def _as_it_is(_: Redaction, text: str) -> str:
    return text


if __name__ == "__main__":
    Redaction.__call__ = _as_it_is  # type: ignore[method-assign, assignment]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
