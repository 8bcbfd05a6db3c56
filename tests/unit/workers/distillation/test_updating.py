"""New versions: a run that starts from what is published, and leaves it serving until it is done itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.storage.manifest import Manifest
from core.storage.publication import read_manifest
from tests.unit.workers.distillation.bench import Bench
from workers.distillation.attempt import Outcome
from workers.distillation.exports import Exports


def published(bench: Bench, job_id: str) -> Manifest:
    key = bench.memory(job_id).manifest_key
    assert key is not None
    return read_manifest(bench.worker.store, key)


def made(bench: Bench) -> str:
    """A job that has published the first version."""
    job_id = bench.admit("train")
    assert bench.perform(job_id) is Outcome.SUCCEEDED
    assert published(bench, job_id).training["started_from"] == "scratch"
    return job_id


def test_a_new_version_starts_from_the_published_adapter(bench: Bench) -> None:
    first = made(bench)
    old = published(bench, first)
    second = bench.revise(first, "train again")
    assert bench.perform(second) is Outcome.SUCCEEDED
    memory, new = bench.memory(second), published(bench, second)
    assert (memory.version, memory.title, new.version, new.job_id) == (2, "A newer title", 2, second)
    assert new.training["started_from"] == len(old.files)
    assert new.prefix != old.prefix
    assert memory.context_key.endswith(f"{second}.json")


def test_a_failed_new_version_leaves_the_old_one_serving(bench: Bench) -> None:
    first = made(bench)
    before = bench.memory(first)
    second = bench.revise(first, "refuse")
    assert bench.perform(second) is Outcome.FAILED
    assert bench.job(second).state == "failed"
    assert replace(bench.memory(first), updated_at=before.updated_at) == before


@pytest.mark.parametrize("why", ["missing", "corrupt", "rank"])
def test_an_adapter_that_cannot_be_built_on_means_a_start_from_scratch_and_an_event(bench: Bench, why: str) -> None:
    first = made(bench)
    old = published(bench, first)
    second = bench.revise(first, "train again")
    if why == "missing":
        bench.worker.store.delete(old.key_of(old.files[0]))
    elif why == "corrupt":
        bench.worker.store.put(old.key_of(old.files[0]), b"other bytes")
    else:
        at = bench.worker
        recipe = at.settings.recipe.model_copy(update={"rank": 4})
        settings = at.settings.model_copy(update={"recipe": recipe})
        exports = Exports(at.store, at.base, recipe, settings.encoder)
        bench.worker = replace(at, settings=settings, exports=exports)
    assert bench.perform(second) is Outcome.SUCCEEDED
    assert published(bench, second).training["started_from"] == "scratch"
    (told,) = [event for event in bench.events(second) if event.type == "message"]
    assert (told.level, "from scratch" in told.message) == ("warning", True)


def test_a_new_version_goes_along_in_a_pack(bench: Bench) -> None:
    first = made(bench)
    second, other = bench.revise(first, "train again"), bench.admit("train")
    assert bench.perform(other) is Outcome.SUCCEEDED
    assert bench.memory(second).version == 2
