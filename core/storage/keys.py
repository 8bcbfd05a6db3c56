"""Where each object lives. Keys are made of ids that LatentBank gave out, never of what a tenant wrote.

truth.json, which names the truth that the store belongs to (`ownership.py`)
tenants/<tenant>/memories/<memory>/context.json
tenants/<tenant>/memories/<memory>/contexts/<job>.json, of later versions
tenants/<tenant>/memories/<memory>/adapters/<version>/<epoch>-<token>/manifest.json and the adapter's files
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.errors import InvalidKey
from core.ids import is_id
from core.storage.object_store import check_key, check_segment

MANIFEST_NAME = "manifest.json"
ROOT = "tenants"

_CONTEXT = re.compile(r"contexts/job_[a-z2-7]{26}\.json")
_ADAPTER = re.compile(r"adapters/(\d+)/(\d+)-([^/]+)/([^/]+)")


def tenant_prefix(tenant_id: str) -> str:
    if not is_id("tenant", tenant_id):
        raise InvalidKey(f"{tenant_id[:80]!r} is not a tenant's id.")
    return f"{ROOT}/{tenant_id}"


def memory_prefix(tenant_id: str, memory_id: str) -> str:
    """The folder that holds everything of one memory."""
    if not is_id("mem", memory_id):
        raise InvalidKey(f"{memory_id[:80]!r} is not a memory's id.")
    return f"{tenant_prefix(tenant_id)}/memories/{memory_id}"


def context_key(tenant_id: str, memory_id: str) -> str:
    return f"{memory_prefix(tenant_id, memory_id)}/context.json"


def revised_context_key(tenant_id: str, memory_id: str, job_id: str) -> str:
    """The context of a later version, by the job that makes it; the one that serves stays beside it meanwhile."""
    if not is_id("job", job_id):
        raise InvalidKey(f"{job_id[:80]!r} is not a job's id.")
    return f"{memory_prefix(tenant_id, memory_id)}/contexts/{job_id}.json"


def version_prefix(tenant_id: str, memory_id: str, version: int) -> str:
    """The folder of all attempts at one version."""
    return f"{memory_prefix(tenant_id, memory_id)}/adapters/{version:d}"


def adapter_prefix(tenant_id: str, memory_id: str, version: int, epoch: int, token: str) -> str:
    """The folder of one attempt: no other claim of the job has this epoch and token."""
    return check_key(f"{version_prefix(tenant_id, memory_id, version)}/{epoch:d}-{check_segment(token)}")


def manifest_key(prefix: str) -> str:
    return f"{prefix}/{MANIFEST_NAME}"


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose object a key is. Of an adapter's files `prefix` is the attempt's folder; of a context it is `None`."""

    tenant_id: str
    memory_id: str
    prefix: str | None = None
    version: int | None = None
    epoch: int | None = None


def owner_of(key: str) -> KeyOwner | None:
    """Reads a key back; `None` where LatentBank did not make it, so that garbage collection leaves it alone."""
    parts = key.split("/", 4)
    if len(parts) != 5 or (parts[0], parts[2]) != (ROOT, "memories"):
        return None
    _, tenant_id, _, memory_id, rest = parts
    if not (is_id("tenant", tenant_id) and is_id("mem", memory_id)):
        return None
    if rest == "context.json" or _CONTEXT.fullmatch(rest):
        return KeyOwner(tenant_id, memory_id)
    match = _ADAPTER.fullmatch(rest)
    if match is None:
        return None
    return KeyOwner(tenant_id, memory_id, key.rsplit("/", 1)[0], int(match[1]), int(match[2]))
