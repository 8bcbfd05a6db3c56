"""No code that a process runs can unpickle: what comes from a store, a hub or a tenant is data and never a program."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
SOURCES = [path for part in ("core", "gateway", "orchestrator", "workers") for path in (ROOT / part).rglob("*.py")]


def unpickling(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, keywords = node.func.attr, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            owner = ast.unparse(node.func.value)
            if (owner, name) in {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load")}:
                found.append(f"{owner}.{name}")
            if (
                keywords.get("allow_pickle", "False") != "False"
                or keywords.get("trust_remote_code", "False") != "False"
            ):
                found.append(ast.unparse(node))
            if name == "from_pretrained" and "Tokenizer" not in owner and "use_safetensors" not in ast.unparse(node):
                found.append(ast.unparse(node))
        if isinstance(node, ast.Name) and node.id in {"eval", "exec"}:
            found.append(node.id)
    return found


def test_there_are_sources_to_look_into() -> None:
    assert len(SOURCES) > 150


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from dill import loads", "torch.load(path)", "np.load(path, allow_pickle=True)", "eval(text)"],
)
def test_an_unpickler_would_be_seen(code: str) -> None:
    assert unpickling(ast.parse(code))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_runs_what_it_reads(path: Path) -> None:
    # In `prepare` the weights' format is chosen a line earlier: GGUF, which holds no code, or safetensors.
    allowed = ["AutoModelForCausalLM.from_pretrained(files.directory, dtype=torch.float32, **extra)"]
    found = unpickling(ast.parse(path.read_text()))
    assert [one for one in found if not (path.name == "prepare.py" and one in allowed)] == []
