"""SASL and TLS, passed through from [queue.kafka] to a broker that demands them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer as KafkaClient
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.kafka.broker import Broker
from tests.kafka.fixtures import own_broker
from tests.store.certificate import self_signed
from tests.support import eventually
from zpush import config
from zpush._fast.record import Record
from zpush.config.settings import Settings
from zpush.errors import QueueUnavailable
from zpush.protocol.message import Message, Priority
from zpush.queue.base import Consumer, DeadLetters, Producer, ReceiptReader, ReceiptWriter
from zpush.queue.kafka_config import client_config, opened
from zpush.queue.open import (
    open_consumer,
    open_dead_letters,
    open_producer,
    open_receipt_reader,
    open_receipt_writer,
    open_topics,
)
from zpush.queue.receipt import Receipt

PASSWORD = "tiny-secret"
USERS = ("zpush", "maker", "sender", "server", "processor", "operator", "nobody")
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required {};".format(
    " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
)
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


Rights = Mapping[tuple[ResourceType, str], Sequence[AclOperation]]  # by kind and prefix


class Secure:
    """A broker with a listener for each way to prove who one is, and the files for those who use certificates."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self._broker = broker
        self.certificate, self.key = directory / "certificate.pem", directory / "key.pem"
        self.password_file = directory / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.password_file.chmod(0o600)

    def allow(self, user: str, rights: Rights) -> None:
        _allow_one(self._broker, user, rights)

    def settings(self, listener: str, **passed_on: str) -> Settings:
        """passed_on: with _ for each dot."""
        overrides = [f"queue.kafka.{name.replace('_', '.')}={value}" for name, value in passed_on.items()]
        url = f"queue.url=kafka://127.0.0.1:{self._broker.ports[listener]}"
        return config.load(None, {}, [url, f"queue.prefix={listener.lower()}", *overrides])


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    directory = tmp_path_factory.mktemp("secure")
    certificate, key = self_signed(directory, "127.0.0.1")
    (directory / "store.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:zpush;User:CN=127.0.0.1",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": PLAIN,
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": SCRAM,
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": SCRAM,
        "listener.name.both.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.both.plain.sasl.jaas.config": PLAIN,
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.truststore.type": "PEM",
        "listener.name.mutual.ssl.truststore.location": str(certificate),
    }
    for listener in ("tls", "both", "mutual"):
        settings[f"listener.name.{listener}.ssl.keystore.type"] = "PEM"
        settings[f"listener.name.{listener}.ssl.keystore.location"] = str(directory / "store.pem")
    listeners = {"SASL": "SASL_PLAINTEXT", "TLS": "SSL", "BOTH": "SASL_SSL", "MUTUAL": "SSL"}
    with own_broker(settings=settings, listeners=listeners) as broker:
        _add_scram_users(broker)
        _allow(broker)
        yield Secure(broker, directory)


def _add_scram_users(broker: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        user = UserScramCredentialUpsertion("zpush", ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
        for done in admin.alter_user_scram_credentials([user]).values():
            done.result(30)


def _allow(broker: Broker) -> None:
    """What docs/queue.md says that each needs, for the prefix "acl"."""
    topics, groups, dead = (ResourceType.TOPIC, "acl."), (ResourceType.GROUP, "acl."), (ResourceType.TOPIC, "acl.dead")
    receipts, replay = (ResourceType.TOPIC, "acl.receipts"), (ResourceType.GROUP, "acl.dead.replay")
    write = (AclOperation.WRITE,)
    allowed = {
        "maker": {topics: (AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS, AclOperation.CREATE)},
        "sender": {topics: (AclOperation.WRITE,)},
        "server": {topics: (AclOperation.READ, AclOperation.WRITE), groups: (AclOperation.DESCRIBE,)},
        "processor": {topics: (AclOperation.READ,), dead: write, receipts: write, groups: (AclOperation.READ,)},
        "operator": {topics: (AclOperation.READ, AclOperation.WRITE), replay: (AclOperation.READ,)},
    }
    for user, of_user in allowed.items():
        _allow_one(broker, user, of_user)


def _allow_one(broker: Broker, user: str, of_user: Rights) -> None:
    bindings = [
        AclBinding(*resource, ResourcePatternType.PREFIXED, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for resource, operations in of_user.items()
        for operation in operations
    ]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for done in admin.create_acls(bindings).values():
        done.result(30)


def use(settings: Settings) -> None:
    """Makes the topics and produces a record: QueueUnavailable where the broker does not let this client in."""
    topics = open_topics(settings.queue, settings.queue.url, 10.0)
    assert topics is not None
    topics.create(topics.missing())
    assert all(look.exists for look in topics.look())
    producer = opened(KafkaClient, client_config(settings.queue.url, settings.queue.kafka))
    producer.produce(f"{settings.queue.prefix}.high", b"x", b"key")
    assert producer.flush(30) == 0


def refused(settings: Settings, says: str) -> None:
    topics = open_topics(settings.queue, settings.queue.url, 3.0)
    assert topics is not None
    with pytest.raises(QueueUnavailable) as caught:
        topics.missing()
    assert re.search(says, str(caught.value)), caught.value
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl(secure: Secure, mechanism: str) -> None:
    user = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism, "sasl_username": "zpush"}
    use(secure.settings("SASL", **user, sasl_password=PASSWORD))
    refused(secure.settings("SASL", **user, sasl_password="wrong"), "[Aa]uthentication failed")


def test_the_password_from_a_file(secure: Secure) -> None:
    settings = config.load(
        None,
        {"ZPUSH_QUEUE__KAFKA__SASL__PASSWORD_FILE": str(secure.password_file)},
        [
            f"queue.url={secure.settings('SASL').queue.url}",
            "queue.kafka.security.protocol=SASL_PLAINTEXT",
            "queue.kafka.sasl.mechanism=PLAIN",
            "queue.kafka.sasl.username=zpush",
        ],
    )
    use(settings)


def test_tls(secure: Secure) -> None:
    use(secure.settings("TLS", security_protocol="SSL", ssl_ca_location=str(secure.certificate)))


def test_a_broker_that_cannot_prove_itself_is_not_spoken_to(secure: Secure) -> None:
    refused(secure.settings("TLS", security_protocol="SSL"), "verify|certificate")


def test_sasl_over_tls(secure: Secure) -> None:
    user = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "zpush"}
    use(secure.settings("BOTH", **user, sasl_password=PASSWORD, ssl_ca_location=str(secure.certificate)))


def test_a_certificate_of_ones_own(secure: Secure) -> None:
    tls = {"security_protocol": "SSL", "ssl_ca_location": str(secure.certificate)}
    mine = {"ssl_certificate_location": str(secure.certificate), "ssl_key_location": str(secure.key)}
    use(secure.settings("MUTUAL", **tls, **mine))
    refused(secure.settings("MUTUAL", **tls), "SSL|ssl|[Dd]isconnected")


def test_a_client_without_any_of_it_is_told(secure: Secure) -> None:
    refused(secure.settings("SASL"), "security.protocol|[Dd]isconnected")


def as_user(secure: Secure, user: str, *overrides: str) -> Settings:
    url = secure.settings("SASL").queue.url
    sasl = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": user}
    passed_on = [f"queue.kafka.{name}={value}" for name, value in {**sasl, "sasl.password": PASSWORD}.items()]
    return config.load(None, {}, [f"queue.url={url}", "queue.prefix=acl", *passed_on, *overrides])


def test_what_a_user_is_not_allowed_is_told(secure: Secure) -> None:
    refused(as_user(secure, "nobody"), "[Aa]uthorization failed")


def test_who_makes_topics_needs_no_more_than_the_documents_say(secure: Secure) -> None:
    settings = as_user(secure, "maker")
    topics = open_topics(settings.queue, settings.queue.url, 10.0)
    assert topics is not None
    topics.create(topics.missing())
    assert all(look.exists and not look.differences for look in topics.look())


async def test_all_others_need_no_more_than_the_documents_say(secure: Secure) -> None:
    admin = as_user(secure, "zpush")
    topics = open_topics(admin.queue, admin.queue.url, 10.0)
    assert topics is not None
    topics.create(topics.missing())
    dead: list[Priority] = []
    sender, server, processor = (as_user(secure, user).queue for user in ("sender", "server", "processor"))
    async with contextlib.AsyncExitStack() as opened_ones:
        producers = [open_producer(queue, queue.url) for queue in (sender, server)]
        for producer in producers:
            await _run(opened_ones, producer)
            assert await producer.publish([Message("m", "key", b"x")]) == [None]
        poison = opened(KafkaClient, client_config(sender.url, sender.kafka))
        poison.produce("acl.normal", b"x", b"key", headers={"expires": b"never"})
        assert poison.flush(30) == 0
        lag = (await producers[1].lag())[Priority.NORMAL]
        assert lag.messages == 3 and lag.age_s > 0.0

        consumer = open_consumer(
            processor, processor.url, list(Priority), 100, lambda priority, _: dead.append(priority)
        )
        await _run(opened_ones, consumer)
        records: list[Record] = []
        await eventually(
            lambda: records.extend(consumer.take(Priority.NORMAL, 10)) or len(records) == 2, "both records"
        )
        await eventually(lambda: dead == [Priority.NORMAL], "the dead letter")
        consumer.finish(records)
        await eventually(lambda: _is_empty(consumer), "everything is finished")


async def test_operators_need_no_more_than_the_documents_say(secure: Secure) -> None:
    admin, processor, operator = (
        as_user(secure, user, "queue.receipts=true").queue for user in ("zpush", "processor", "operator")
    )
    topics = open_topics(admin, admin.url, 10.0)
    assert topics is not None
    topics.create(topics.missing())
    stranger = opened(KafkaClient, client_config(admin.url, admin.kafka))
    place = {"topic": "acl.normal", "partition": "0", "offset": "1", "time": "1700000000000"}
    stranger.produce("acl.dead", b"x", b"key", headers={"reason": "of its time", **place})
    assert stranger.flush(30) == 0
    async with contextlib.AsyncExitStack() as opened_ones:
        writer = open_receipt_writer(processor, processor.url)
        await _run(opened_ones, writer)
        written: list[bool] = []
        writer.write(Receipt("m", "normal", "eu", 1, 2, "delivered", "key"), written.append)
        await eventually(lambda: written == [True], "the receipt")
        reader = open_receipt_reader(operator, operator.url)
        await _run(opened_ones, reader)
        assert [each.client async for each in reader.read("m", 0, follow=False)] == ["key"]
        letters = open_dead_letters(operator, operator.url)
        await _run(opened_ones, letters)
        assert [await letters.replay(batch) async for batch in letters.read()][-1][-1] is None
        assert await letters.count() == 0


async def test_a_sender_recovers_when_it_is_given_its_right(secure: Secure) -> None:
    """To have none is fatal to an idempotent producer: what comes after it is another one."""
    admin, sender = (as_user(secure, user, "queue.prefix=later") for user in ("zpush", "nobody"))
    topics = open_topics(admin.queue, admin.queue.url, 10.0)
    assert topics is not None
    topics.create(topics.missing())
    async with contextlib.AsyncExitStack() as opened_ones:
        producer = open_producer(sender.queue, sender.queue.url)
        await _run(opened_ones, producer)
        [error] = await producer.publish([Message("m", "key", b"x")])
        assert isinstance(error, QueueUnavailable)
        assert not producer.up and "authorization failed" in producer.reason
        secure.allow("nobody", {(ResourceType.TOPIC, "later."): (AclOperation.WRITE,)})

        async def taken() -> bool:
            return await producer.publish([Message("m", "key", b"x")]) == [None]

        await eventually(taken)
        await eventually(lambda: producer.up)


@pytest.mark.parametrize("missing", ["topic", "group"])
async def test_a_processor_recovers_when_it_is_given_its_right(secure: Secure, missing: str) -> None:
    prefix = f"lacks-{missing}"
    admin, processor = (as_user(secure, user, f"queue.prefix={prefix}") for user in ("zpush", "nobody"))
    topics = open_topics(admin.queue, admin.queue.url, 10.0)
    assert topics is not None
    topics.create(topics.missing())
    rights: Rights = {
        (ResourceType.TOPIC, prefix): (AclOperation.READ,),
        (ResourceType.GROUP, prefix): (AclOperation.READ,),
    }
    lacking = ResourceType.TOPIC if missing == "topic" else ResourceType.GROUP
    secure.allow("nobody", {what: given for what, given in rights.items() if what[0] is not lacking})
    async with contextlib.AsyncExitStack() as opened_ones:
        queue = processor.queue
        consumer = open_consumer(queue, queue.url, list(Priority), 100, lambda priority, redelivered: None)
        await _run(opened_ones, consumer)
        await eventually(lambda: "authorization failed" in consumer.reason)
        assert not consumer.up
        secure.allow("nobody", rights)
        await eventually(lambda: consumer.up)
        producer = open_producer(admin.queue, admin.queue.url)
        await _run(opened_ones, producer)
        assert await producer.publish([Message("m", "key", b"x")]) == [None]
        await eventually(lambda: consumer.take(Priority.NORMAL, 10))


async def _run(
    stack: contextlib.AsyncExitStack, each: Producer | Consumer | ReceiptWriter | ReceiptReader | DeadLetters
) -> None:
    await each.start()
    stack.push_async_callback(each.stop)


async def _is_empty(reader: Consumer) -> bool:
    return (await reader.lag())[Priority.NORMAL].messages == 0
