"""What leaves a run: an adapter directory, validated, uploaded, verified; or one that an earlier attempt uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from core.adapters.validation import layers_of_base, validate_adapter
from core.base_model.description import BaseDescription
from core.retrieval.compact import record_of
from core.settings import RecipeSettings
from core.storage.keys import version_prefix
from core.storage.manifest import Manifest
from core.storage.object_store import ObjectStore
from core.storage.publication import find_manifest, upload_adapter
from core.truth.records import Claim, Publication
from workers.distillation.runs import MemoryResult


@dataclass(frozen=True)
class Exports:
    """The way of an adapter into the object store, for one base and one recipe."""

    store: ObjectStore
    base: BaseDescription
    recipe: RecipeSettings
    encoder: str

    @cached_property
    def expected_layers(self) -> Mapping[str, tuple[int, int]]:
        """`{layer: (inputs, outputs)}` of every layer that an adapter of this recipe has weights for."""
        return layers_of_base(self.base.path, self.recipe.targets)

    def adopt(self, claim: Claim) -> Publication | None:
        """What an earlier epoch of the same job uploaded whole and did not live to commit. `None` on a first epoch."""
        if claim.epoch <= 1:
            return None
        memory = claim.memory
        found = find_manifest(
            self.store,
            version_prefix(memory.tenant_id, memory.id, _next_version(claim)),
            job_id=claim.job.id,
            base_digest=self.base.digest,
        )
        return None if found is None else _publication(*found)

    def upload(self, claim: Claim, result: MemoryResult, directory: Path) -> Publication:
        """Validates and uploads `directory`. Raises `AdapterInvalid`, or `StorageError` where the store fails."""
        validate_adapter(directory, expected_layers=self.expected_layers, base_digest=self.base.digest)
        record = record_of(directory, claim.memory.id)
        manifest, key = upload_adapter(
            self.store,
            directory,
            tenant_id=claim.memory.tenant_id,
            memory_id=claim.memory.id,
            job_id=claim.job.id,
            version=_next_version(claim),
            epoch=claim.epoch,
            token=claim.token,
            base_name=self.base.name,
            base_digest=self.base.digest,
            encoder=self.encoder,
            activation_tokens=self.base.activation_tokens,
            rank=self.recipe.rank,
            targets=self.recipe.targets,
            training=result.training,
            gate=result.gate,
            seconds_by_phase=result.seconds_by_phase,
        )
        return replace(_publication(manifest, key), retrieval=record)


def _next_version(claim: Claim) -> int:
    return (claim.memory.version or 0) + 1


def _publication(manifest: Manifest, key: str) -> Publication:
    return Publication(
        manifest_key=key,
        adapter_digest=manifest.adapter_digest,
        adapter_bytes=manifest.total_bytes,
        base_digest=manifest.base_digest,
        version=manifest.version,
    )
