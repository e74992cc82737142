"""Messages as fields of a stream entry, there and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from zpush._fast.entry import position
from zpush._fast.entry import read as usual_form
from zpush.errors import MalformedMessage
from zpush.protocol.close import REPLACED, close_event_id
from zpush.protocol.message import Kind, Message, Priority, Target
from zpush.queue.entry import MAX_PAYLOAD_BYTES, from_fields, to_fields
from zpush.queue.partition import Partition, read_message

IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
MESSAGES = st.builds(
    Message,
    id=IDS,
    key=IDS,
    payload=st.text(max_size=50).map(str.encode),
    kind=st.sampled_from(Kind),
    target=st.sampled_from(Target),
    priority=st.sampled_from(Priority),
    expires_ms=st.sampled_from([0, 1, 2_000_000_000_000]),
    secure_token=st.sampled_from(["", "a-token"]),
).filter(lambda message: message.target is Target.CLIENT or not message.secure_token)


def wire(message: Message) -> list[bytes]:
    return [field.encode() if isinstance(field, str) else field for field in to_fields(message)]


def read(fields: list[bytes]) -> Message:
    return read_message(fields, Priority.LOW, 7, "zpush.low.0", b"7-0")


@given(MESSAGES)
def test_what_goes_in_comes_out(message: Message) -> None:
    got = read(wire(message))
    key = "" if message.target is Target.ALL else message.key
    expected = structs.replace(message, key=key, priority=Priority.LOW, queued_ms=7)
    assert got == expected


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"id", b"key", b"payload", b"type", b"expires", b"target", b"token", b"other"]),
        st.one_of(
            st.binary(max_size=8), st.sampled_from([b"text", b"binary", b"json", b"all", b"user:u", b"1", b"c1"])
        ),
    ),
    max_size=8,
)


@given(FIELDS, st.booleans())
def test_anybodys_fields_are_a_message_or_malformed_and_both_ways_agree(
    pairs: list[tuple[bytes, bytes]], usual: bool
) -> None:
    """The way in C for entries in the usual form must judge as the definition does."""
    if usual:
        values = [value for _, value in pairs] + [b"c1"] * 4
        pairs = list(zip([b"id", b"key", b"payload", b"type"], values, strict=False))
    fields = [part for pair in pairs for part in pair]

    def judge(way: Callable[..., Message]) -> Message | str:
        try:
            return way(fields, Priority.LOW, 7, "zpush.low.0", b"7-0")
        except MalformedMessage as e:
            return e.reason

    assert judge(read_message) == judge(from_fields)


def test_a_missing_id_is_the_entrys_own() -> None:
    assert read([b"key", b"c1", b"payload", b"x"]).id == "zpush.low.0:7-0"


def test_no_message_passes_for_the_end_of_an_event_stream() -> None:
    """An EventSource that comes back with this id is told to stay away."""
    message = Message(close_event_id(REPLACED), "c1", b"x")
    for way in (read_message, from_fields):
        with pytest.raises(MalformedMessage, match="zpush:close:"):
            way(wire(message), Priority.LOW, 7, "zpush.low.0", b"7-0")


@pytest.mark.parametrize("extra", [0, 1])
def test_the_payloads_bound(extra: int) -> None:
    message = Message("i", "c", b"x" * (MAX_PAYLOAD_BYTES + extra))
    if extra:
        with pytest.raises(MalformedMessage, match="more than"):
            read(wire(message))
    else:
        assert read(wire(message)).payload == message.payload


@given(
    IDS,
    IDS,
    st.binary(max_size=8),
    st.sampled_from(Kind),
    st.sampled_from([b"", b"0", b"1", b"x", b"9" * 15, b"9" * 16]),
)
def test_the_usual_form_is_read_in_c_exactly_where_it_is_usual(
    id: str, key: str, payload: bytes, kind: Kind, expires: bytes
) -> None:
    written = wire(Message(id, key, payload, kind))
    fields = written + ([b"expires", expires] if expires else [])
    found = usual_form(fields)
    usual = id.isascii() and key.isascii() and (kind is Kind.BINARY or _is_text(payload))
    if usual and (not expires or (expires.isdigit() and len(expires) <= 15)):
        assert found == (id, key, payload, kind, int(expires or 0))
    else:
        assert found is None
    assert usual_form(tuple(fields)) is None and usual_form(written[2:]) is None


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "numbers"), [(b"0", (0, 0)), (b"17-3", (17, 3)), (b"1-18446744073709551615", (1, 2**64 - 1))]
)
def test_a_streams_ids_are_read(text: bytes, numbers: tuple[int, int]) -> None:
    assert position(text) == numbers


@pytest.mark.parametrize("text", [b"x", b"1-2-3", b"1 ", b"1-\0"])
def test_what_is_no_id_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a stream's id"):
        position(text)


def test_an_id_beyond_any_time_is_read_all_the_same() -> None:
    partition = Partition(Priority.LOW, 0, "zpush.low.0", "reader.1", b"0-0", 0.0)
    fields = [b"id", b"m1", b"key", b"c1", b"payload", b"x", b"type", b"text"]
    partition.received([(b"18446744073709551615-1", fields), (b"18446744073709551615-2", fields[2:6])])
    assert [record.message.key for record in partition.buffer] == ["c1", "c1"]
