"""Puts a worker together from its settings."""

from __future__ import annotations

import torch

from core.adapters.packed import PackedAdapters, slot_bytes
from core.base_model.loading import load_base
from core.base_model.prepare import ensure_prepared
from core.encryption.sealed_store import open_sealed_store
from core.engine.prefix_cache import PrefixCache
from core.errors import SetupError
from core.logs import get_logger
from core.metrics import InferenceMetrics
from core.retrieval.encoder import Encoder
from core.settings import ServingSettings, Settings
from core.storage.node_cache import NodeCache
from core.truth.database import Database
from workers.inference.banks.bank import Banks
from workers.inference.banks.bank_gates import BankGates
from workers.inference.banks.text_cache import TextCache
from workers.inference.banks.texts import Texts
from workers.inference.service import Service
from workers.inference.tiers.residency import Residency

log = get_logger(__name__)


def open_service(settings: Settings, database: Database, metrics: InferenceMetrics) -> Service:
    """Loads base and encoder, and opens every tier; takes seconds. Raises `SetupError` where something is missing."""
    serving = settings.serving
    if serving.threads:
        torch.set_num_threads(serving.threads)
    base = load_base(ensure_prepared(settings.base_model, settings.base_dir))
    targets = settings.recipe.targets
    slots = slots_of(serving, slot_bytes(base.model, targets, serving.max_rank))
    packed = PackedAdapters(base.model, targets, slots, serving.max_rank)
    encoder = Encoder(settings.encoder)
    store = open_sealed_store(settings, database)
    residency = Residency(
        packed,
        NodeCache(settings.resolved_node_cache_dir, serving.node_cache_bytes, store),
        base_digest=base.description.digest,
        ram_bytes=serving.ram_bytes,
        metrics=metrics,
    )
    gates = BankGates(metrics, serving.false_activation)
    banks = Banks(database, residency, gates, encoder=encoder.reference)
    prefix_cache = PrefixCache(base.description.digest, serving.prefix_cache_bytes, serving.block_tokens)
    cache = TextCache(store, encoder.encode, max_bytes=serving.text_bytes, forgotten=prefix_cache.forget)
    texts = Texts(database, cache, prefix_cache, max_bytes=serving.text_bytes)
    _tell_budgets(packed, serving, metrics)
    return Service(base, packed, banks, residency, encoder, prefix_cache, serving, metrics, texts)


def slots_of(serving: ServingSettings, one: int) -> int:
    """How many slots there are, the base's among them, each of which takes `one` bytes.

    Raises `SetupError` where the budget has no room for any adapter.
    """
    if serving.slots_bytes is None:
        return serving.slots
    slots = serving.slots_bytes // one
    if slots < 2:
        raise SetupError(
            f"LATENTBANK_SERVING__SLOTS_BYTES is {serving.slots_bytes}; the base's slot and one more take {2 * one}."
        )
    return slots


def _tell_budgets(packed: PackedAdapters, serving: ServingSettings, metrics: InferenceMetrics) -> None:
    """What this worker will take, in the metrics and in the log; slots are a number, so what they cost is said."""
    budgets = {
        "slot": packed.slots * packed.slot_bytes,
        "ram": serving.ram_bytes,
        "node_cache": serving.node_cache_bytes,
    }
    for tier, size in budgets.items():
        metrics.adapter_budget.labels(tier).set(size)
    log.info(
        "budgets in bytes",
        slots=packed.slots,
        of_a_slot=packed.slot_bytes,
        of_all_slots=budgets["slot"],
        ram=serving.ram_bytes,
        node_cache=serving.node_cache_bytes,
        prefix_cache=serving.prefix_cache_bytes,
        texts=serving.text_bytes,
    )
