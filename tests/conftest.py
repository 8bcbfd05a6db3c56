"""Every module of `tests/fixtures` is a plugin: a fixture is found by its server's name."""

from __future__ import annotations

import base64
import os
from pathlib import Path

pytest_plugins = [
    f"tests.fixtures.{path.stem}"
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if path.stem != "__init__"
]

# Tests start processes on PostgreSQL and S3, which refuse to start without one; those of the refusal take it away.
os.environ.setdefault("LATENTBANK_MASTER_KEY", base64.b64encode(b"the master key of the test suite").decode())
