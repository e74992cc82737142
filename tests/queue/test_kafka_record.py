"""Messages as Kafka records, there and back, and records that no well-meaning producer would write."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Message as KafkaRecord
from confluent_kafka.admin import NewTopic
from hypothesis import given
from hypothesis import strategies as st

from tests.kafka import raw
from tests.kafka.fixtures import Kafka
from tests.support import wait_until
from zpush._fast.taking import headers_in
from zpush.errors import MalformedMessage
from zpush.protocol.message import Kind, Message, Priority, Target
from zpush.queue.entry import MAX_PAYLOAD_BYTES
from zpush.queue.kafka_record import headers_of, message_of

NOW_MS = 1_800_000_000_000
THEN_MS = NOW_MS - 5
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
MESSAGES = st.builds(
    Message,
    id=IDS,
    key=IDS,
    payload=st.text(max_size=50).map(str.encode),
    kind=st.sampled_from(Kind),
    target=st.sampled_from(Target),
    expires_ms=st.sampled_from([0, 1, 2_000_000_000_000]),
    secure_token=st.sampled_from(["", "a-token"]),
).filter(lambda message: message.target is Target.CLIENT or not message.secure_token)


def record(value: bytes | None, key: bytes | None, headers: list[Any], timestamp_ms: int = THEN_MS) -> KafkaRecord:
    return KafkaRecord("zpush.low", 3, 17, key, value, headers, None, (1, timestamp_ms))


def read(it: KafkaRecord) -> Message:
    return message_of(it, headers_in(it), Priority.LOW, NOW_MS)


def wire(headers: list[Any]) -> list[Any]:
    """As they come back: bytes."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]


@given(MESSAGES)
def test_what_goes_in_comes_out(message: Message) -> None:
    got = read(record(message.payload, message.key.encode(), wire(headers_of(message))))
    key = "" if message.target is Target.ALL else message.key
    expected = Message(
        message.id, key, message.payload, message.kind, message.target, Priority.LOW, message.expires_ms, THEN_MS,
        secure_token=message.secure_token,
    )  # fmt: skip
    assert got == expected


VALUES = st.one_of(st.none(), st.binary(max_size=8), st.sampled_from([b"text", b"json", b"all", b"user:u", b"1"]))
HEADERS = st.lists(
    st.tuples(st.sampled_from(["id", "type", "expires", "target", "token", "other"]), VALUES), max_size=5
)


@given(HEADERS, st.one_of(st.none(), st.binary(max_size=8)), st.one_of(st.none(), st.binary(max_size=8)), st.booleans())
def test_anybodys_record_is_a_message_or_malformed_and_both_ways_agree(
    headers: list[Any], key: bytes | None, value: bytes | None, usual: bool
) -> None:
    """The short way for records in the usual form must judge as the long one does."""
    if usual:
        headers = [("id", headers[0][1] if headers else b"x"), ("type", headers[1][1] if len(headers) > 1 else b"text")]

    def judge(shuffled: list[Any]) -> Message | str:
        try:
            return read(record(value, key, shuffled))
        except MalformedMessage as e:
            return e.reason

    assert judge(headers) == judge(headers[::-1] if usual else headers)


@pytest.mark.parametrize("more", [[], [("expires", b"0")]], ids=["as headers_of writes it", "as others do"])
def test_no_message_passes_for_the_end_of_an_event_stream(more: list[tuple[str, bytes]]) -> None:
    """An EventSource that comes back with this id is told to stay away."""
    with pytest.raises(MalformedMessage, match="zpush:close:"):
        read(record(b"x", b"c1", [("id", b"zpush:close:4002"), ("type", b"text"), *more]))


def test_a_missing_id_is_the_records_place() -> None:
    assert read(record(b"x", b"c1", [])).id == "zpush.low:3:17"
    assert read(record(b"x", b"c1", [("id", None), ("type", b"text")])).id == "zpush.low:3:17"


def test_the_last_of_two_headers_counts() -> None:
    assert read(record(b"x", b"c1", [("type", b"nonsense"), ("type", b"binary")])).kind is Kind.BINARY


@pytest.mark.parametrize(("stamp", "queued"), [(NOW_MS + 10**9, NOW_MS), (5, 5), (-1, NOW_MS)])
def test_a_record_of_no_time_or_of_the_future_is_of_now(stamp: int, queued: int) -> None:
    assert read(record(b"x", b"c1", [], stamp)).queued_ms == queued


@pytest.mark.parametrize("extra", [0, 1])
def test_the_payloads_bound(extra: int) -> None:
    payload = b"x" * (MAX_PAYLOAD_BYTES + extra)
    if extra:
        with pytest.raises(MalformedMessage, match="more than"):
            read(record(payload, b"c", []))
    else:
        assert read(record(payload, b"c", [])).payload == payload


def test_a_record_without_value_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="no value"):
        read(record(None, b"c", []))


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ([(b"\xff\xfe", b"x"), (b"type", b"text")], False),
        ([(b"id", b"a"), (b"\xc3(", None)], False),
        ([(b"", b"x")], True),
        ([(b"a\0b", b"\0")], True),
        ([(f"h{n}".encode(), b"x" * 1000) for n in range(500)], True),
    ],
    ids=["not UTF-8", "not UTF-8, after a good one", "no name", "zero byte", "many"],
)
def test_header_names_that_a_client_library_would_not_write(
    kafka: Kafka, headers: list[raw.Header], fine: bool
) -> None:
    """A name that is no text makes confluent_kafka fail in a way that must not be met twice."""
    topic = f"{kafka.prefix}.raw"
    admin = kafka.admin
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
    batch = raw.batch_of(b"hello", headers=headers)
    wait_until(lambda: raw.produce(kafka.bootstrap, topic, 0, batch) == 0, "the topic is there and takes it")
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": kafka.prefix})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = wait_until(lambda: consumer.poll(0.2), "the record")
    for _ in range(5000):  # an interpreter that has warmed up is a trap of its own
        read(record(b"x", b"c1", [("id", b"x")]))
    if fine:
        assert read(found).payload == b"hello"
    else:
        with pytest.raises(MalformedMessage, match="name of a header"):
            read(found)
    consumer.close()
