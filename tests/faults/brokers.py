"""The two real brokers, and what can happen to them as servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from celery import Celery

from core.jobs.doorbells import QUEUE, TASK_NAME
from tests.fixtures.rabbitmq import RabbitServer, running_rabbitmq
from tests.fixtures.redis import RedisServer, running_redis

BROKERS = ("redis", "rabbitmq")
UNACKNOWLEDGED_SECONDS = 2
"""How long RabbitMQ lets a doorbell be unacknowledged before it closes the channel."""


class Broker(Protocol):
    """A server that can be started again, and emptied."""

    url: str

    def restart(self) -> None:
        """Killed, and started again at once."""

    def flush(self) -> None:
        """Everything in it is lost, and nobody is told."""


@dataclass
class Redis:
    server: RedisServer

    @property
    def url(self) -> str:
        return self.server.url

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def flush(self) -> None:
        from redis import Redis as Client

        client = Client.from_url(self.url)
        client.flushall()
        client.close()


@dataclass
class Rabbit:
    server: RabbitServer

    @property
    def url(self) -> str:
        return self.server.url

    def restart(self) -> None:
        self.server.kill()
        self.server.start()

    def flush(self) -> None:
        app = Celery("flush", broker=self.url, set_as_current=False)
        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(QUEUE)
        app.close()


@contextmanager
def running_broker(name: str) -> Iterator[Broker]:
    if name == "redis":
        with running_redis() as redis:
            yield Redis(redis)
    else:
        milliseconds = UNACKNOWLEDGED_SECONDS * 1000
        with running_rabbitmq(f"{{consumer_timeout, {milliseconds}}}, {{channel_tick_interval, 1000}}") as rabbit:
            yield Rabbit(rabbit)


def ring(broker: Broker, job_id: str, times: int = 1) -> None:
    """Doorbells beside those of the dispatcher."""
    app = Celery("bell", broker=broker.url, set_as_current=False)
    for _ in range(times):
        app.send_task(TASK_NAME, args=[job_id], queue=QUEUE, ignore_result=True)
    app.close()
