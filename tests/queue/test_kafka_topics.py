"""Topics: which are wanted, how they are made and compared, and a cluster that does not answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from tests.kafka.broker import Broker
from tests.kafka.fixtures import Kafka
from tests.support import free_port, wait_until
from zpush import config
from zpush.config.settings import Settings
from zpush.errors import QueueUnavailable
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_names import RECORD_BYTES
from zpush.queue.kafka_topics import Difference, Topics, wanted
from zpush.queue.open import open_topics

TIMEOUT_S = 20.0


def settings_for(kafka: Kafka, *overrides: str) -> Settings:
    return config.load(None, {}, [f"queue.url={kafka.url}", f"queue.prefix={kafka.prefix}", *overrides])


def topics_for(kafka: Kafka, *overrides: str) -> Topics:
    settings = settings_for(kafka, *overrides)
    return Topics(settings.queue, settings.queue.url, TIMEOUT_S)


def test_one_list_of_what_is_wanted() -> None:
    overrides = ["queue.partitions=3", "queue.prefix=p", "queue.kafka.retention=2h", "queue.kafka.replication=3"]
    topics = {topic.name: topic for topic in wanted(config.load(None, {}, overrides).queue)}
    assert list(topics) == ["p.high", "p.normal", "p.low", "p.dead"]
    assert topics["p.low"].partitions == 3
    assert topics["p.dead"].partitions == 1
    assert topics["p.high"].replication == 3
    assert topics["p.high"].config["retention.ms"] == "7200000"
    assert topics["p.dead"].config["retention.ms"] == str(7 * 86_400_000)
    assert topics["p.high"].config["min.insync.replicas"] == "2"
    assert "min.insync.replicas" not in wanted(config.load(None, {}, []).queue)[0].config


def test_receipts_want_theirs_where_they_are_on() -> None:
    overrides = ["queue.prefix=p", "queue.partitions=3", "queue.kafka.receipt_retention=2h", "queue.receipts=true"]
    *others, receipts = wanted(config.load(None, {}, overrides).queue)
    assert [topic.name for topic in others] == ["p.high", "p.normal", "p.low", "p.dead"]
    assert (receipts.name, receipts.partitions) == ("p.receipts", 3)
    assert receipts.config["retention.ms"] == "7200000"


def test_presence_events_want_theirs_where_they_are_on() -> None:
    overrides = ["queue.prefix=p", "queue.partitions=3", "queue.kafka.presence_retention=2h", "queue.presence=true"]
    *others, presence = wanted(config.load(None, {}, overrides).queue)
    assert [topic.name for topic in others] == ["p.high", "p.normal", "p.low", "p.dead"]
    assert (presence.name, presence.partitions) == ("p.presence", 3)
    assert presence.config["retention.ms"] == "7200000"


def test_streams_want_none() -> None:
    settings = config.load(None, {}, ["queue.url=redis://h"])
    assert open_topics(settings.queue, settings.queue.url, 1.0) is None


def test_what_is_missing_is_made_as_configured(kafka: Kafka) -> None:
    topics = topics_for(kafka, "queue.partitions=3", "queue.kafka.replication=1", "queue.kafka.retention=2h")
    assert [topic.name for topic in topics.missing()] == [
        f"{kafka.prefix}.{n}" for n in ("high", "normal", "low", "dead")
    ]
    assert not any(look.exists for look in topics.look())
    topics.create(topics.missing())
    assert topics.missing() == []
    assert [(look.exists, look.differences) for look in topics.look()] == [(True, ())] * 4


def test_what_exists_is_compared_and_left_alone(kafka: Kafka) -> None:
    kafka.create("high", partitions=5)
    topics = topics_for(kafka, "queue.partitions=3")
    topics.create(topics.missing())
    looks = {look.topic.name.removeprefix(f"{kafka.prefix}."): look for look in topics.look()}
    assert looks["high"].differences[0] == Difference("partitions", "5", "3")
    assert {each.what for each in looks["high"].differences} == {"partitions", "retention.ms", "max.message.bytes"}
    assert looks["low"].differences == ()
    other = topics_for(kafka, "queue.partitions=3", "queue.kafka.replication=2").look()
    assert Difference("replication", "1", "2") in other[0].differences


def test_a_topic_that_forgets_what_stands_before_a_clients_last_record_is_told(kafka: Kafka) -> None:
    new = NewTopic(f"{kafka.prefix}.high", 8, 1, config={"cleanup.policy": "compact"})
    admin = kafka.admin  # its futures end with it
    admin.create_topics([new])[new.topic].result(TIMEOUT_S)
    topics = topics_for(kafka)
    look = wait_until(lambda: (found := topics.look()[0]).exists and found, "it is to be seen")
    assert Difference("cleanup.policy", "compact", "delete") in look.differences


def test_what_is_made_is_awaited(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller has them before a broker tells clients of them."""
    topics = topics_for(kafka)
    missing = topics.missing()
    looks = iter([missing, missing[2:], []])
    monkeypatch.setattr(topics, "missing", lambda: next(looks))
    topics.create(missing)
    assert next(looks, None) is None


def test_the_largest_payload_fits(kafka: Kafka) -> None:
    settings = settings_for(kafka)
    topics = topics_for(kafka)
    topics.create(topics.missing())
    producer = Producer({**client_config(kafka.url, settings.queue.kafka), "message.max.bytes": RECORD_BYTES})
    reports: list[object] = []
    producer.produce(
        f"{kafka.prefix}.low", bytes(8 << 20), "k" * 255, on_delivery=lambda error, _: reports.append(error)
    )
    assert producer.flush(60) == 0
    assert reports == [None]


def test_several_may_make_them_at_once(kafka: Kafka) -> None:
    makers = [topics_for(kafka) for _ in range(4)]
    missing = makers[0].missing()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda maker: maker.create(missing), makers))
    assert makers[0].missing() == []


def test_a_topic_that_cannot_be_made_is_told(kafka: Kafka) -> None:
    topics = topics_for(kafka, "queue.kafka.replication=99")
    with pytest.raises(QueueUnavailable, match=rf"cannot make {kafka.prefix}\.high: .*[Rr]eplication"):
        topics.create(topics.missing())


def test_by_default_the_brokers_say_how_many_replicas(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker(settings={"default.replication.factor": "2"})  # more than there are
    settings = config.load(None, {}, [f"queue.url={broker.url}"])
    topics = Topics(settings.queue, settings.queue.url, TIMEOUT_S)
    with pytest.raises(QueueUnavailable, match=r"cannot make zpush\.high: .*[Rr]eplication"):
        topics.create(topics.missing())


def test_nobody_there() -> None:
    port = free_port()
    settings = config.load(None, {}, [f"queue.url=kafka://127.0.0.1:{port}"])
    with pytest.raises(QueueUnavailable, match=rf"Kafka at 127\.0\.0\.1:{port}: .*Connection refused"):
        Topics(settings.queue, settings.queue.url, 1.0).missing()


def test_a_cluster_that_hangs_and_comes_back(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker()
    settings = config.load(None, {}, [f"queue.url={broker.url}"])
    broker.pause()
    with pytest.raises(QueueUnavailable, match=f"Kafka at {broker.bootstrap}"):
        Topics(settings.queue, settings.queue.url, 1.0).missing()
    broker.resume()

    def looked() -> bool:
        with contextlib.suppress(QueueUnavailable):  # it elects its controller anew, perhaps
            return len(Topics(settings.queue, settings.queue.url, TIMEOUT_S).missing()) == 4
        return False

    wait_until(looked, "it is back", 3 * TIMEOUT_S)
