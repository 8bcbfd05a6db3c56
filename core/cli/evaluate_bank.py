"""A suite's documents as memories of one tenant, made by the running stack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from core.cli.client import Api, ApiError, Json
from core.cli.keys import KeyFiles
from core.cli.progress import Watched, watch_jobs, why
from core.evaluation.records import Made
from core.evaluation.suite import Document
from core.settings import Settings

_KEY = "eval_api_key"
_TENANT = "eval_tenant"


@dataclass(frozen=True, slots=True)
class Tenant:
    """The tenant whose bank the suite becomes."""

    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Offered:
    """A document that was sent: the gateway's answer, or why it was refused."""

    document: Document
    accepted: Json | None
    problem: str | None = None


def tenant_of(data_dir: Path, gateway_url: str, admin_key: str) -> Tenant:
    """The tenant of this data directory, made the first time."""
    kept = KeyFiles(data_dir / "secrets")
    id_, key = kept.read(_TENANT), kept.read(_KEY)
    if id_ is not None and key is not None:
        return Tenant(id_, key)
    with Api(gateway_url, admin_key) as admin:
        made = admin.create_tenant("evaluation")
    kept.keep(_TENANT, made["id"])
    kept.keep(_KEY, made["api_key"])
    return Tenant(made["id"], made["api_key"])


def distil(
    api: Api, documents: Sequence[Document], settings: Settings, check: Callable[[], None], out: Console
) -> list[Made]:
    """Sends all documents at once, and waits until every memory is ready or has failed; in their order.

    What this data directory already holds, made by the same recipe, is reused. `check` may raise to end the wait.
    """
    failed = [m["metadata"].get("document") for m in api.memories() if m["status"] == "failed"]
    offered = [_offer(api, document, settings, failed) for document in documents]
    watched = [
        Watched(api, one.accepted["job_id"], one.document.id)
        for one in offered
        if one.accepted is not None and one.accepted["status"] != "ready"
    ]
    if watched:
        watch_jobs(watched, out, meanwhile=check)
    made = [_made(api, one) for one in offered]
    for one in made:
        if not one.ready:
            out.print(f"  [red]✗[/] {escape(one.document.id)}: {escape(one.problem or 'no memory')}")
    return made


def identity_of(document: Document, settings: Settings) -> str:
    """The hex digest of all that a memory depends on, code apart."""
    parts = [
        document.id,
        document.title,
        document.text,
        settings.base_model,
        settings.encoder,
        settings.recipe.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _offer(api: Api, document: Document, settings: Settings, failed: Sequence[str | None]) -> Offered:
    identity = identity_of(document, settings)
    fields = {"title": document.title, "text": document.text, "metadata": {"document": identity}}
    try:
        # Another key once it has failed: the same would only give the failure again.
        return Offered(document, api.remember(fields, f"eval-{identity}-{failed.count(identity)}"))
    except ApiError as refused:
        return Offered(document, None, refused.message)


def _made(api: Api, offered: Offered) -> Made:
    if offered.accepted is None:
        return Made(offered.document, None, False, offered.problem, None, None)
    memory, job = api.memory(offered.accepted["id"]), api.job(offered.accepted["job_id"])
    ready = memory["status"] == "ready"
    return Made(
        offered.document,
        memory["id"],
        ready,
        None if ready else why(job),
        job["created_at"],
        job.get("finished_at"),
        job.get("started_at"),
        reused=offered.accepted["status"] == "ready",
        job_id=offered.accepted["job_id"],
    )
