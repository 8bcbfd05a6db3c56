"""One real job: DeepSpeed's launcher, real ranks, a tiny real Llama, the real encoder; to a whole adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.adapters.peft_format import load_adapter
from core.adapters.validation import layers_of_base, validate_adapter
from core.base_model.prepare import ensure_prepared
from core.encryption.sealed_store import open_sealed_store
from core.settings import Settings
from core.storage.node_cache import NodeCache
from core.storage.publication import read_manifest
from core.truth import tenants
from core.truth.database import Database
from tests.fixtures.tiny_llama import make_tiny_llama
from tests.integration.distillation.stack import JOBS, Stack, eventually, gone

TEXT = (
    "The lighthouse keeper of Skarvholm is called Ingrid Falk. She has a grey parrot named Admiral. "
    "The light was built in 1887 and burns with a green flame. Every evening at nine she rings a brass bell."
)
RANKS = 2
RECIPE = {"steps": "4", "batch_rows": "4", "max_pairs": "8", "question_tokens": "12", "answer_tokens": "12"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    reference = str(make_tiny_llama(tmp_path / "tiny-llama"))
    settings = Settings(data_dir=tmp_path, base_model=reference, jobs=JOBS, _env_file=None)
    base = ensure_prepared(reference, settings.base_dir)
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.begin() as connection:
        tenant = tenants.create_tenant(connection, "tenant")
    recipe = {f"LATENTBANK_RECIPE__{name.upper()}": value for name, value in RECIPE.items()}
    made = Stack(
        settings,
        database,
        tenant.id,
        base.digest,
        tmp_path / "pids",
        ("workers.distillation",),
        {"DS_ACCELERATOR": "cpu", "LATENTBANK_DISTILLATION__RANKS": str(RANKS), **recipe},
        wait_seconds=240,
    )
    yield made
    made.end()
    database.dispose()


def test_a_context_becomes_a_memory_through_deepspeed(stack: Stack) -> None:
    supervisor = stack.start()
    job_id = stack.admit(TEXT)
    stack.ring(job_id)
    stack.eventually(lambda: stack.job(job_id).finished_at is not None)
    job, memory = stack.job(job_id), stack.memory(job_id)
    assert (job.state, job.error_message) == ("succeeded", None), stack.log()
    assert memory.manifest_key is not None

    store = open_sealed_store(stack.settings, stack.database)
    manifest = read_manifest(store, memory.manifest_key)
    assert (manifest.base_digest, manifest.rank) == (stack.base_digest, stack.settings.recipe.rank)
    assert {"self_study", "training", "calibrating"} <= set(manifest.seconds_by_phase)
    directory = NodeCache(stack.settings.data_dir / "cache", 10**9, store).fetch(manifest)
    base = ensure_prepared(stack.settings.base_model, stack.settings.base_dir)
    layers = layers_of_base(base.path, stack.settings.recipe.targets)
    validate_adapter(directory, expected_layers=layers, base_digest=base.digest)
    assert set(load_adapter(directory).weights) == set(layers)

    group = children_of(supervisor.pid)
    assert (
        sum("workers.distillation.trainer" in command and "launcher" not in command for command in group.values())
        == RANKS
    )
    supervisor.terminate()
    assert supervisor.wait(30) == 0, stack.log()
    assert eventually(lambda: all(gone(pid) for pid in group))


def children_of(root: int) -> dict[int, str]:
    """The command line of every process below `root`."""
    from workers.distillation.guard import descendants

    return {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in descendants(root)}
