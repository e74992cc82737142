"""Fixtures of every test that needs Kafka: a broker for the whole session, and brokers that a test may kill.

Rules. Tests share one broker, so each has a prefix of its own for topics and groups, and its topics are deleted after
it. Who kills, stops or configures a broker makes one. Without Java or Maven these tests are skipped with one line, and
with ZPUSH_REQUIRE_ALL=1 they fail instead. ZPUSH_TEST_KAFKA=host:port: the shared broker is the user's.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.kafka.broker import Broker
from tests.kafka.jars import missing
from tests.support import lacking

ADMIN_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Kafka:
    """A broker that others use as well. prefix: for this test's topics (`<prefix>.high`) and groups alone."""

    bootstrap: str
    prefix: str

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    def create(self, *names: str, partitions: int = 2) -> None:
        """Topics `<prefix>.<name>`."""
        admin = self.admin  # its futures end with it
        new = [NewTopic(f"{self.prefix}.{name}", partitions, 1) for name in names]
        for made in admin.create_topics(new).values():
            made.result(ADMIN_TIMEOUT_S)

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap})


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """host:port of the session's broker."""
    if users := os.environ.get("ZPUSH_TEST_KAFKA"):
        yield users
        return
    need_java()
    broker = Broker()
    broker.start()
    yield broker.bootstrap
    broker.stop()


@pytest.fixture
def kafka(kafka_bootstrap: str) -> Iterator[Kafka]:
    """The session's broker, with a prefix of this test's own."""
    shared = Kafka(kafka_bootstrap, f"zpush-{uuid.uuid4().hex[:8]}")
    yield shared
    admin = shared.admin
    mine = [topic for topic in admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics if topic.startswith(shared.prefix)]
    if mine:
        for deleted in admin.delete_topics(mine, operation_timeout=ADMIN_TIMEOUT_S).values():
            deleted.result(ADMIN_TIMEOUT_S)


@contextlib.contextmanager
def own_broker(**options: Any) -> Iterator[Broker]:
    """A running Broker made with these arguments of it, for a fixture; skips the test where there can be none."""
    if os.environ.get("ZPUSH_TEST_KAFKA"):
        pytest.skip("this test kills or configures its broker, so not ZPUSH_TEST_KAFKA's")
    need_java()
    broker = Broker(**options)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def make_broker() -> Iterator[Callable[..., Broker]]:
    """make_broker(…) starts a Broker of the test's own, with the arguments of Broker; all end with the test."""
    with contextlib.ExitStack() as brokers:
        yield lambda **options: brokers.enter_context(own_broker(**options))


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    """A broker of the test's own: .kill(), .restart(), .pause(), .resume()."""
    return make_broker()


def need_java() -> None:
    """Skips the test, or fails it, where no broker can run here."""
    if why := missing():
        lacking(f"Kafka tests: {why} (or ZPUSH_TEST_KAFKA=host:port)")
