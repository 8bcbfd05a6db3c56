"""The suite's bank, read as an inference worker reads it: truth → manifests → node cache → adapters, index, gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import LoadedAdapter, load_adapter
from core.adapters.validation import validate_adapter
from core.base_model.description import BaseDescription
from core.encryption.sealed_store import open_sealed_store
from core.errors import AdapterInvalid, LatentBankError
from core.evaluation.judging import Gates
from core.logs import get_logger
from core.retrieval.index import BankIndex, MemoryIndex, load_index
from core.settings import Settings
from core.storage.manifest import Manifest
from core.storage.node_cache import NodeCache
from core.storage.object_store import ObjectStore
from core.storage.publication import read_manifest
from core.truth import memories
from core.truth.database import Database
from core.truth.records import BankEntry


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """The memory of one document of the suite."""

    document_id: str
    memory_id: str
    manifest: Manifest
    index: MemoryIndex
    adapter: LoadedAdapter


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedBank:
    """All memories of the suite that can serve, by document; `refused` are those that can't, and why."""

    members: Mapping[str, Member]
    gates: Gates
    index: BankIndex
    refused: Mapping[str, str]

    def document_of(self, memory_id: str) -> str:
        return next(m.document_id for m in self.members.values() if m.memory_id == memory_id)


def read_bank(
    settings: Settings, tenant_id: str, documents: Mapping[str, str], base: BaseDescription, encoder: str
) -> EvaluatedBank:
    """Reads the tenant's ready memories that `documents` names (memory id to document id), and no others."""
    database = Database(settings.resolved_database_url)
    try:
        with database.read() as connection:
            _, entries = memories.bank(connection, tenant_id)
        return _read(settings, open_sealed_store(settings, database), entries, documents, base, encoder)
    finally:
        database.dispose()


def _read(
    settings: Settings,
    store: ObjectStore,
    entries: Sequence[BankEntry],
    documents: Mapping[str, str],
    base: BaseDescription,
    encoder: str,
) -> EvaluatedBank:
    cache = NodeCache(settings.resolved_node_cache_dir, settings.serving.node_cache_bytes, store)
    members: dict[str, Member] = {}
    refused: dict[str, str] = {}
    gates = Gates(settings.serving.false_activation)
    for entry in entries:
        if entry.memory_id not in documents:
            continue
        document_id = documents[entry.memory_id]
        try:
            members[document_id] = _member(store, cache, entry, document_id, base, encoder, gates)
        except LatentBankError as problem:
            get_logger(__name__).warning("memory refused", memory_id=entry.memory_id, why=str(problem))
            refused[document_id] = problem.message
    return EvaluatedBank(members, gates, BankIndex([m.index for m in members.values()]), refused)


def pack(model: Any, bank: EvaluatedBank) -> tuple[PackedAdapters | None, dict[str, int]]:
    """Puts every adapter of the bank into a slot of `model`; the slots by document. `None` for an empty bank."""
    if not bank.members:
        return None, {}
    adapters = [member.adapter for member in bank.members.values()]
    targets = sorted({target for adapter in adapters for target in adapter.targets})
    packed = PackedAdapters(model, targets, len(adapters) + 1, max(adapter.rank for adapter in adapters))
    slots = {document_id: slot for slot, document_id in enumerate(bank.members, 1)}
    for document_id, member in bank.members.items():
        packed.write(slots[document_id], member.adapter.weights, member.adapter.scale)
    return packed, slots


def _member(
    store: ObjectStore,
    cache: NodeCache,
    entry: BankEntry,
    document_id: str,
    base: BaseDescription,
    encoder: str,
    gates: Gates,
) -> Member:
    manifest = read_manifest(store, entry.manifest_key)
    with cache.reading(manifest) as directory:
        validate_adapter(directory, base_digest=base.digest)
        adapter = load_adapter(directory)
        index = load_index(directory, encoder=encoder)
        if index.memory_id != entry.memory_id:
            raise AdapterInvalid(f"The index of {entry.memory_id} is of another memory.")
        gates.add(directory)
    return Member(document_id, entry.memory_id, manifest, index, adapter)
