"""An evaluation from suite to figures: distil and time with the stack running, then ask with the machine to itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from core.base_model.loading import LoadedBase, load_base
from core.base_model.prepare import ensure_prepared
from core.cli.client import Api
from core.cli.evaluate_bank import Tenant, distil, tenant_of
from core.cli.evaluate_screen import Steps, progress_bars
from core.cli.stack import Plan, embedded, plan_stack, running_stack
from core.engine.kv import PrefixKv
from core.errors import Unavailable
from core.evaluation.answering import ANSWER_TOKENS, Answerer
from core.evaluation.asking import Routing, ask_suite
from core.evaluation.bank import EvaluatedBank, pack, read_bank
from core.evaluation.latency import Endpoint, measure, sample
from core.evaluation.losses import read_losses
from core.evaluation.records import Made, Outcome, Served
from core.evaluation.resident import watching
from core.evaluation.results import results_of
from core.evaluation.suite import Suite
from core.retrieval.encoder import Encoder
from core.settings import Settings, StorageSettings

_MOST_IDS = 64
"""As many memories as a request may name."""


def run(settings: Settings, suite: Suite, data_dir: Path, seed: int, out: Console) -> tuple[Outcome, dict[str, Any]]:
    """The whole evaluation; its results are ready for JSON. Raises what the stack raises."""
    disable_progress_bar()
    if settings.serving.threads:
        torch.set_num_threads(settings.serving.threads)
    local = _local(settings, data_dir)
    out.print("[bold]Starting the stack[/] (SQLite, local objects, Celery on its filesystem transport)")
    stack = plan_stack(settings, data_dir, embedded(data_dir))
    description = ensure_prepared(local.base_model, local.base_dir)
    encoder = Encoder(local.encoder)
    with running_stack(stack, lambda line: out.print(f"  [green]✓[/] {line}")) as children:
        tenant = tenant_of(data_dir, stack.gateway_url, stack.admin_key)
        worker = next(child for child in children.running if child.name == "distillation-worker")
        out.print(f"\n[bold]Distilling[/] {len(suite.documents)} documents")
        with Api(stack.gateway_url, tenant.key) as api, watching(worker.process.pid) as peak:
            made = distil(api, suite.documents, local, children.check, out)
        documents = {one.memory_id: one.document.id for one in made if one.ready and one.memory_id}
        bank = read_bank(local, tenant.id, documents, description, encoder.reference)
        made = [_refused(one, bank) for one in made]
        out.print("\n[bold]Timing[/] the first word over HTTP")
        with progress_bars(out) as steps:
            served = _served(stack, tenant, suite, bank, encoder, seed, description.name, steps, out)
        out.print("\nStopping the stack")
    base = load_base(description)
    out.print(f"\n[bold]Asking[/] {len(suite.questions)} questions")
    adapters, slots = pack(base.model, bank)
    routing = Routing(local.serving.top_k, seed, local.serving.max_active)
    with progress_bars(out) as steps:
        answerer = Answerer(base, adapters, slots)
        records, judgements = ask_suite(suite, bank, encoder, answerer, routing, steps)
    outcome = Outcome(
        tuple(records),
        tuple(judgements),
        tuple(_with_manifest(one, bank, base, local, tenant) for one in made),
        tuple(served),
        peak.bytes if any(not one.reused for one in made) else None,
    )
    with out.status("Computing intervals …"):
        results = results_of(
            outcome, suite=suite.name, seed=seed, settings=_settings(local, routing), versions=_versions()
        )
    return outcome, results


def _local(settings: Settings, data_dir: Path) -> Settings:
    """The settings that the stack's processes have, as far as they matter here."""
    serving = settings.serving.model_copy(update={"node_cache_dir": data_dir / "node-cache"})
    update = {"data_dir": data_dir, "database_url": "", "broker_url": "", "serving": serving}
    return settings.model_copy(update=update | {"storage": StorageSettings()})


def _served(
    stack: Plan,
    tenant: Tenant,
    suite: Suite,
    bank: EvaluatedBank,
    encoder: Encoder,
    seed: int,
    model: str,
    steps: Steps,
    out: Console,
) -> Sequence[Served]:
    """A sample of questions over HTTP; none where the stack can't answer, since the memories were dear to make."""
    texts = {document.id: document.text for document in suite.documents}
    questions = [q for q in sample(suite.questions, seed) if q.documents[0] in bank.members]

    def retrieve(question: str) -> str:
        (hit,) = bank.index.search(question, encoder.encode([question])[0], 1)
        return texts[bank.document_of(hit.memory_id)]

    # A data directory that is reused may hold memories of other documents: those are not of this bank.
    ids = [member.memory_id for member in bank.members.values()]
    scope = {"ids": ids} if 0 < len(ids) <= _MOST_IDS else {}
    endpoint = Endpoint(stack.gateway_url, tenant.key, model, scope)
    told = "questions over HTTP"
    steps(told, 0, len(questions))
    try:
        return measure(endpoint, questions, retrieve, ANSWER_TOKENS, lambda done: steps(told, done, len(questions)))
    except Unavailable as problem:
        out.print(f"  [red]✗[/] no latencies: {escape(problem.message)}")
        return ()


def _refused(made: Made, bank: EvaluatedBank) -> Made:
    """A memory that is published but can't be used counts as failed."""
    if not made.ready or made.document.id in bank.members:
        return made
    problem = bank.refused.get(made.document.id, "The bank does not hold it.")
    return replace(made, ready=False, problem=problem)


def _with_manifest(made: Made, bank: EvaluatedBank, base: LoadedBase, settings: Settings, tenant: Tenant) -> Made:
    member = bank.members.get(made.document.id)
    if member is None or made.job_id is None:
        return made
    manifest = member.manifest
    weights = sum(file.bytes for file in manifest.files if file.name.startswith("adapter_model"))
    return replace(
        made,
        bytes=manifest.total_bytes,
        adapter_bytes=weights,
        kv_bytes=_kv_bytes(base, made.document.text),
        seconds_by_phase=manifest.seconds_by_phase,
        losses=read_losses(settings, tenant.id, made.job_id, manifest.training),
    )


def _kv_bytes(base: LoadedBase, text: str) -> int:
    layers, heads, _, width = PrefixKv.empty(base.model).keys.shape
    each: int = base.model.dtype.itemsize
    return 2 * layers * heads * width * each * len(base.chat.encode(text))


def _settings(settings: Settings, routing: Routing) -> Mapping[str, Any]:
    return {
        "base_model": settings.base_model,
        "encoder": settings.encoder,
        "recipe": settings.recipe.model_dump(mode="json"),
        "top_k": routing.top_k,
        "max_active": routing.max_active,
        "answer_tokens": ANSWER_TOKENS,
    }


def _versions() -> Mapping[str, str]:
    return {
        "latentbank": version("latentbank"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
