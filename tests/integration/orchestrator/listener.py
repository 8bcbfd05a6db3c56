"""A minimal real worker: `python -m tests.integration.orchestrator.listener BROKER DATABASE DATA_DIR LOG`.

It answers a doorbell as a distillation worker does, by a claim, and ends what it claimed at once. Into LOG goes one
line per delivery: the job's id and whether the claim held.
"""

from __future__ import annotations

import sys
from pathlib import Path

from celery import Celery

from core.jobs.doorbells import QUEUE, TASK_NAME, celery_settings
from core.truth import jobs
from core.truth.database import Database


def main(broker_url: str, database_url: str, data_dir: str, log: str) -> None:
    database = Database(database_url)
    app = Celery("listener")
    app.conf.update(celery_settings(broker_url, Path(data_dir)))

    @app.task(name=TASK_NAME)
    def answer(job_id: str) -> None:
        with database.begin() as connection:
            claimed = jobs.claim(connection, job_id, "listener", 60)
            if claimed is not None:
                jobs.finish(connection, claimed, "failed", "training_failed")
        with Path(log).open("a") as lines:
            lines.write(f"{job_id} {'claimed' if claimed else 'too late'}\n")

    app.Worker(pool="solo", queues=[QUEUE], loglevel="INFO", without_gossip=True, without_mingle=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
