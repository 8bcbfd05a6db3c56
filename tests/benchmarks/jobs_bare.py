"""Bare Celery for the queue's benchmark: one task that does nothing, and how fast two workers are through many of it.

    python -m celery -A tests.benchmarks.jobs_bare worker …

The workers are Celery as it comes: one process each, acknowledging early, results ignored. What they hold dies with
them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from celery import Celery
from redis import Redis

from tests.benchmarks.jobs_processes import Process

QUEUE = "bare"

app = Celery("bare", broker=os.environ.get("BARE_BROKER_URL", ""))
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE)


@app.task(name="bare.nothing")
def nothing(job_id: str) -> None:
    """As much as a doorbell's message says, and no work."""


def bare_per_second(broker_url: str, tasks: int, workers: int) -> float:
    """Tasks a second from the first that leaves the full queue to the last that is done; workers start before it."""
    sender = Celery("bare.sender", broker=broker_url, set_as_current=False)
    with ExitStack() as stack, Redis.from_url(broker_url) as broker, sender.connection_for_write() as connection:
        producer = connection.Producer()
        for number in range(tasks):
            sender.send_task("bare.nothing", args=[f"job_{number:026d}"], queue=QUEUE, producer=producer)
        for number in range(workers):
            stack.enter_context(_worker(broker_url, number))

        def left() -> int:
            return int(broker.llen(QUEUE)) + int(broker.hlen("unacked"))

        _wait(lambda: left() < tasks)
        began = time.perf_counter()
        _wait(lambda: left() == 0)
        return tasks / (time.perf_counter() - began)


def _worker(broker_url: str, number: int) -> Process:
    options = ["--pool", "prefork", "--concurrency", "1", "--loglevel", "ERROR", "-Q", QUEUE]
    options += ["--without-gossip", "--without-mingle", "-n", f"bare{number}@%h"]
    command = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.jobs_bare", "worker", *options]
    return Process(f"bare-{number}", command, {"BARE_BROKER_URL": broker_url}, subprocess.DEVNULL)


def _wait(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError("The bare workers did not work the queue off.")
        time.sleep(0.01)
