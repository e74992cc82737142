"""Every back end, one after the other: the contract is the same for all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.kafka.broker import Broker
from tests.kafka.fixtures import Kafka
from tests.queue.backends import Backend, StreamsBackend
from tests.queue.kafka_backend import KafkaBackend
from tests.support import Valkey


@pytest.fixture
async def streams(valkey: Valkey) -> AsyncIterator[StreamsBackend]:
    backend = StreamsBackend(valkey)
    yield backend
    await backend.close()


@pytest.fixture
async def on_kafka(kafka: Kafka) -> AsyncIterator[KafkaBackend]:
    """On the session's broker."""
    backend = KafkaBackend(kafka, kafka.prefix)
    yield backend
    await backend.close()


@pytest.fixture
async def on_kafka_848(kafka: Kafka) -> AsyncIterator[KafkaBackend]:
    """The same with the new group protocol (KIP-848)."""
    backend = KafkaBackend(kafka, kafka.prefix, protocol="consumer")
    yield backend
    await backend.close()


@pytest.fixture
async def on_own_kafka(broker: Broker) -> AsyncIterator[KafkaBackend]:
    """On a broker that the test may kill."""
    backend = KafkaBackend(broker, "zpush")
    yield backend
    await backend.close()


@pytest.fixture(params=["streams", "on_kafka", "on_kafka_848"], ids=["streams", "kafka", "kafka-848"])
def backend(request: pytest.FixtureRequest) -> Backend:
    opened: Backend = request.getfixturevalue(request.param)
    return opened


@pytest.fixture(params=["streams", "on_own_kafka"], ids=["streams", "kafka"])
def own_backend(request: pytest.FixtureRequest) -> Backend:
    """One whose server the test may kill."""
    opened: Backend = request.getfixturevalue(request.param)
    return opened
