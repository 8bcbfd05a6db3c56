"""Puts a worker together from its settings."""

from __future__ import annotations

import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import load_base
from core.base_model.prepare import ensure_prepared
from core.engine.prefix_cache import PrefixCache
from core.logs import get_logger
from core.metrics import InferenceMetrics
from core.retrieval.encoder import Encoder
from core.settings import ServingSettings, Settings
from core.storage.node_cache import NodeCache
from core.storage.opening import open_store
from core.truth.database import Database
from workers.inference.bank import Banks
from workers.inference.bank_gates import BankGates
from workers.inference.residency import Residency
from workers.inference.service import Service

log = get_logger(__name__)


def open_service(settings: Settings, database: Database, metrics: InferenceMetrics) -> Service:
    """Loads base and encoder, and opens every tier; takes seconds. Raises `SetupError` where something is missing."""
    serving = settings.serving
    if serving.threads:
        torch.set_num_threads(serving.threads)
    base = load_base(ensure_prepared(settings.base_model, settings.base_dir))
    packed = PackedAdapters(base.model, settings.recipe.targets, serving.slots, serving.max_rank)
    encoder = Encoder(settings.encoder)
    store = open_store(settings)
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
    _tell_budgets(packed, serving, metrics)
    return Service(base, packed, banks, residency, encoder, prefix_cache, serving, metrics)


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
    )
