"""The producer on Kafka: where records go, in which order, and what becomes of those that Kafka does not take."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from tests.kafka.broker import Broker
from tests.queue.backends import message
from tests.queue.kafka_backend import TIMEOUT_S, KafkaBackend, murmur2, read_all
from tests.queue.test_kafka import configure, delete_topic, make_topics, topic
from tests.support import ROOT, eventually
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.protocol.message import Message, Target
from zpush.queue.kafka_producer import KafkaProducer


def written(backend: KafkaBackend) -> list[str]:
    """Ids of what stands in the topic of priority normal, in order per partition."""
    records = read_all(backend.server.bootstrap, topic(backend))
    return [dict(record.headers())["id"].decode() for record in records]


# org.apache.kafka.common.utils.UtilsTest, testMurmur2
JAVAS = [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]


@pytest.mark.parametrize(("key", "sum"), JAVAS)
def test_our_murmur2_is_javas(key: bytes, sum: int) -> None:
    assert murmur2(key) == sum & 0xFFFFFFFF


async def test_keys_go_where_javas_client_puts_them(on_kafka: KafkaBackend) -> None:
    producer = await on_kafka.producer()
    keys = [f"c{i}" for i in range(50)] + ["клиент", "x" * 255]
    sent = [message(key) for key in keys] + [message("u:1", target=Target.USER)]
    sent += [message("", target=Target.ALL) for _ in range(5)]
    assert await producer.publish(sent) == [None] * len(sent)
    records = read_all(on_kafka.server.bootstrap, topic(on_kafka))
    found = {dict(r.headers())["id"].decode(): r.partition() for r in records}
    assert found == {m.id: on_kafka.layout.partition_of(m.key) for m in sent}


async def test_calls_keep_their_order_whatever_their_size(on_kafka: KafkaBackend) -> None:
    """A large one takes several turns of the loop; a small one that comes meanwhile has to wait."""
    producer = await on_kafka.producer()
    calls = [[message("c1") for _ in range(size)] for size in (1, 1500, 1, 700, 3)]
    results = await asyncio.gather(*(producer.publish(call) for call in calls))
    assert all(error is None for result in results for error in result)
    assert written(on_kafka) == [m.id for call in calls for m in call]


async def test_what_is_sent_again_is_known_to_the_broker(on_own_kafka: KafkaBackend) -> None:
    """By the producer's id and a sequence number, which each batch has in the log (KIP-98: at its bytes 43 and 53).

    librdkafka gives them to batches only that all replicas have to acknowledge.
    """
    producer = await on_own_kafka.producer()
    for _ in range(2):
        assert await producer.publish([message("c1")]) == [None]
    partition = f"{topic(on_own_kafka)}-{on_own_kafka.layout.partition_of('c1')}"
    log = (on_own_kafka.server.directory / "data" / partition / f"{0:020}.log").read_bytes()
    (length,) = struct.unpack_from(">i", log, 8)
    batches = [struct.unpack_from(">qhi", log, at + 43) for at in (0, 12 + length)]
    assert batches[0][0] == batches[1][0] >= 0
    assert [sequence for _, _, sequence in batches] == [0, 1]


async def test_what_the_topic_does_not_take_spoils_nothing_else(on_kafka: KafkaBackend) -> None:
    """A topic with Kafka's own default: librdkafka's batches are smaller, so what is too large stands alone."""
    configure(on_kafka, "max.message.bytes", "1048588")
    producer = await on_kafka.producer()
    noise = os.urandom(2_000_000).hex()  # compressed half of it
    sent = [message("c1", "a"), message("c1", noise), message("c1", "b")]
    results = await producer.publish(sent)
    assert [type(error) for error in results] == [type(None), MalformedMessage, type(None)]
    assert "max.message.bytes" in str(results[1])
    assert written(on_kafka) == [sent[0].id, sent[2].id]


async def test_more_bytes_than_may_be_under_way_are_refused(on_kafka: KafkaBackend) -> None:
    producer = await on_kafka.producer(queue_buffering_max_kbytes="1024")
    results = await producer.publish([message("c1", "x" * 300_000) for _ in range(10)])
    kinds = Counter(type(error) for error in results)
    assert kinds.keys() == {type(None), QueueFull}
    assert kinds[type(None)] == 3
    assert await producer.publish([message("c1", "x" * 300_000)]) == [None]


async def test_a_missing_topic_is_told_with_the_command_that_makes_it(on_kafka: KafkaBackend) -> None:
    delete_topic(on_kafka)
    await eventually(lambda: topic(on_kafka) not in on_kafka.topics())
    producer = await on_kafka.producer(
        topic_metadata_propagation_max_ms="200", topic_metadata_refresh_interval_ms="300"
    )
    [error] = await producer.publish([message("c1")])
    assert isinstance(error, QueueUnavailable)
    assert topic(on_kafka) in str(error) and "zpush topics create" in str(error)
    make_topics(on_kafka)

    async def taken() -> bool:
        return await producer.publish([message("c1")]) == [None]

    await eventually(taken)


async def test_a_broker_that_says_nothing_is_an_error_after_a_while(on_own_kafka: KafkaBackend) -> None:
    broker: Broker = on_own_kafka.server
    producer = await on_own_kafka.producer(delivery_timeout_ms="1500")

    async def taken() -> bool:
        return await producer.publish([message("c1")]) == [None]

    await eventually(taken)
    broker.pause()
    [error] = await producer.publish([message("c1")])
    assert isinstance(error, QueueUnavailable)
    broker.resume()
    await eventually(taken)


async def test_while_nobody_answers_a_push_is_refused_at_once(on_kafka: KafkaBackend) -> None:
    """And does not wait for as long as one that was under way."""
    producer = KafkaProducer(on_kafka.queue(), "kafka://127.0.0.1:1")
    await producer.start()
    refused = producer.publish([message("c1"), message("c2")])
    assert refused.done() and [type(error) for error in await refused] == [QueueUnavailable] * 2
    await producer.stop()


async def test_idle_connections_that_brokers_close_are_no_outage(make_broker: Callable[..., Broker]) -> None:
    backend = KafkaBackend(make_broker(settings={"connections.max.idle.ms": "1000"}), "zpush")
    producer = await backend.producer()
    link = producer._sender.link
    for connected in (False, True, False, True):

        def closed_or_opened(connected: bool = connected) -> bool:
            assert producer.up
            return link.connected is connected

        await eventually(closed_or_opened)
    assert await producer.publish([message("c1")]) == [None]
    await backend.close()


async def test_stop_waits_for_what_is_under_way(on_kafka: KafkaBackend) -> None:
    producer = KafkaProducer(on_kafka.queue(linger_ms="300"), on_kafka.server.url)
    await producer.start()
    sent = [message(f"c{i}") for i in range(1000)]
    under_way = asyncio.ensure_future(producer.publish(sent))
    await asyncio.sleep(0)
    assert not under_way.done()
    await producer.stop()
    assert await under_way == [None] * 1000
    assert Counter(written(on_kafka)) == Counter(m.id for m in sent)


async def test_what_is_left_at_the_end_is_an_error(on_own_kafka: KafkaBackend) -> None:
    producer = KafkaProducer(on_own_kafka.queue(delivery_timeout_ms="300000"), on_own_kafka.server.url)
    await producer.start()
    assert await producer.publish([message("c1")]) == [None]
    on_own_kafka.server.kill()
    under_way = asyncio.ensure_future(producer.publish([message("c1")]))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await producer.stop()
    [error] = await under_way
    assert isinstance(error, QueueUnavailable)


async def test_a_publish_that_was_given_up_does_no_harm(on_kafka: KafkaBackend) -> None:
    producer = await on_kafka.producer(linger_ms="100")
    given_up = asyncio.ensure_future(producer.publish([message("c1") for _ in range(500)]))
    await asyncio.sleep(0)
    given_up.cancel()
    sent = Message("after", "c1", b"x")
    assert await producer.publish([sent]) == [None]
    assert written(on_kafka)[-1] == "after"


ENDS_WITHOUT_CLOSE = """
import asyncio
from zpush.delivery.pusher import Pusher, QueueLayout

async def main():
    pusher = Pusher("{url}", queue=QueueLayout(prefix="{prefix}"))
    print(await pusher.push(client="c1", text="x"))

asyncio.run(main())
"""


async def test_a_program_that_forgets_to_close_ends_all_the_same(on_kafka: KafkaBackend) -> None:
    code = ENDS_WITHOUT_CLOSE.format(url=on_kafka.server.url, prefix=on_kafka.layout.prefix)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), TIMEOUT_S)
    assert (child.returncode, err) == (0, b"")
    assert written(on_kafka) == [out.decode().strip()]


async def test_nothing_is_made_by_itself(on_kafka: KafkaBackend) -> None:
    """A sender with another prefix makes no topics, also where brokers would allow it."""
    producer = KafkaProducer(on_kafka.queue(), on_kafka.server.url)
    await producer.start()
    await producer.stop()
    admin = AdminClient({"bootstrap.servers": on_kafka.server.bootstrap})
    mine = {name for name in admin.list_topics(timeout=TIMEOUT_S).topics if name.startswith(on_kafka.layout.prefix)}
    assert len(mine) == 4
