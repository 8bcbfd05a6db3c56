"""The doorbell: a Celery message with a job's id and nothing else, and the settings that both of its ends share.

Nothing here imports Celery. Every setting follows from one rule: the database is the queue of record, so a doorbell may
be lost, doubled, late or reordered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TASK_NAME = "latentbank.distil"
QUEUE = "distillation"
ANSWER_SECONDS = 5.0
"""How long the broker may take to confirm a doorbell."""
FOLDER_TRANSPORT = "core.jobs.doorbell_folder:Transport"


def celery_settings(broker_url: str, data_dir: Path) -> dict[str, Any]:
    """For `app.conf.update`. The broker is `filesystem://` (folders below `data_dir`), Redis or RabbitMQ by URL."""
    return {
        "broker_url": broker_url,
        "broker_transport": FOLDER_TRANSPORT if _scheme(broker_url) == "filesystem" else None,
        "broker_transport_options": _transport_options(broker_url, data_dir),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 5.0,
        # A channel that the broker closes, as RabbitMQ does under a job longer than its `consumer_timeout`, is opened
        # again; otherwise the worker would end.
        "broker_channel_error_retry": True,
        "result_backend": None,
        "task_ignore_result": True,
        "task_default_queue": QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        # A delivery stays with the broker until its job has ended; if the worker dies, the reaper brings the job back
        # under its cap on attempts, and the broker must not redeliver past that cap (celery#9082).
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        # A job outlives its connection: leases say who may work, not the broker.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
    }


def _transport_options(broker_url: str, data_dir: Path) -> dict[str, Any]:
    scheme = _scheme(broker_url)
    if scheme == "filesystem":
        return _folders(data_dir / "doorbells")
    if scheme in ("redis", "rediss"):
        # Without a timeout a ring would wait for ever on a connection whose other end is silently gone.
        return {
            "socket_connect_timeout": 5,
            "socket_timeout": ANSWER_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 25,
        }
    return {"confirm_publish": True}


def _scheme(broker_url: str) -> str:
    return urlsplit(broker_url).scheme


def _folders(root: Path) -> dict[str, Any]:
    """Creates them. Both ends read and write the same folder; what is taken moves to another one of the same disk."""
    queue, taken, control = root / "queue", root / "taken", root / "control"
    for folder in (queue, taken, control):
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(queue),
        "data_folder_out": str(queue),
        "processed_folder": str(taken),
        "control_folder": str(control),
        "polling_interval": 0.5,
    }
