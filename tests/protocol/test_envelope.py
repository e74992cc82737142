"""zpush.v1: what is encoded reads back; what clients send is a control message, data, or an error."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpush.errors import MalformedMessage
from zpush.protocol import envelope
from zpush.protocol.envelope import MAX_PING_BYTES, MAX_TOKEN_BYTES, Ack, Auth, GoAway, Ping, Pong, Push
from zpush.protocol.message import Kind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(IDS, st.text(st.characters(exclude_categories=["Cs"])))
def test_text(id: str, text: str) -> None:
    message = envelope.encode(id.encode(), Kind.TEXT, text.encode())
    assert json.loads(message) == {"id": id, "data": text}
    assert envelope.decode(message) == Push(id, text)


@given(IDS, JSON)
def test_json_is_embedded_as_it_was_sent(id: str, value: object) -> None:
    payload = json.dumps(value, indent=1).encode()
    message = envelope.encode(id.encode(), Kind.JSON, payload)
    assert payload in message
    assert json.loads(message) == {"id": id, "data": value}
    assert envelope.decode(message) == Push(id, value)


@given(IDS, st.binary())
def test_binary(id: str, payload: bytes) -> None:
    message = envelope.encode(id.encode(), Kind.BINARY, payload)
    assert json.loads(message) == {"id": id, "base64": base64.b64encode(payload).decode()}
    assert envelope.decode(message) == Push(id, payload)


@given(st.binary(max_size=80), st.sampled_from(list(Kind)), st.binary(max_size=200))
def test_encoding_never_fails_and_never_lets_a_payload_out_of_its_place(id: bytes, kind: Kind, payload: bytes) -> None:
    fields = json.loads(envelope.encode(id, kind, payload))
    assert set(fields) in ({"id", "data"}, {"id", "base64"})


@pytest.mark.parametrize(
    "payload",
    [b'1,"go_away":{"reason":"x"}', b"}{", b"", b"{", b"nul", b"NaN", b'"a', b"[" * 100_000, b'"\xc3\xa9'],
)
def test_what_only_claims_to_be_json_is_a_string(payload: bytes) -> None:
    assert json.loads(envelope.encode(b"i", Kind.JSON, payload)) == {"id": "i", "data": payload.decode()}


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.JSON])
def test_what_only_claims_to_be_text_arrives_in_base64(kind: Kind) -> None:
    assert json.loads(envelope.encode(b"i", kind, b'"\xff"')) == {"id": "i", "base64": "Iv8i"}


def test_go_away() -> None:
    message = envelope.go_away("max_age", 1234)
    assert message == b'{"go_away":{"reason":"max_age","reconnect_in_ms":1234}}'
    assert envelope.decode(message) == GoAway("max_age", 1234)


# What clients send


@pytest.mark.parametrize(
    ("payload", "control"),
    [
        (b'{"ack":"0198"}', Ack("0198")),
        (' {"ack":"é😀"}'.encode()[1:], Ack("é😀")),
        (b'{"auth":"a.b.c"}', Auth(b"a.b.c")),
        (b'{"ping":1}', Ping(b"1")),
        (b'{"ping": {"t":[1,2]} }', Ping(b'{"t":[1,2]}')),
        (b'{"ping":null}', Ping(b"null")),
        (b'{"ack":"a","more":1}', Ack("a")),
        (b' \r\n\t{"ack":"a"} ', Ack("a")),
    ],
)
def test_control_messages(payload: bytes, control: object) -> None:
    assert envelope.decode_control(payload) == control


@pytest.mark.parametrize(
    "payload",
    [b"", b"hello", b"{", b"{}", b"[]", b'"ack"', b'{"acks":"a"}', b'{"data":{"ack":"a"}}', b"\xff", b"{\xff",
     b'{"a":' * 50_000, b'{"ack":"a"} x', b"[" * 100_000,
     b" ", b' x{"ack":"a"}', b'\x0b{"ack":"a"}', b'\xa0{"ack":"a"}'],
)  # fmt: skip
def test_what_is_no_control_message_is_data(payload: bytes) -> None:
    assert envelope.decode_control(payload) is None


@pytest.mark.parametrize(
    "payload",
    [
        b'{"ack":1}',
        b'{"ack":null}',
        b'{"ack":""}',
        b'{"ack":"a\\n"}',
        b'{"ack":"%b"}' % (b"x" * 256),
        b'{"auth":""}',
        b'{"auth":["a"]}',
        b'{"auth":"%b"}' % (b"x" * (MAX_TOKEN_BYTES + 1)),
        b'{"ping":"%b"}' % (b"x" * MAX_PING_BYTES),
        b'{"ping":"\xff"}',
        b'{"ack":"a","ping":1}',
    ],
)
def test_malformed_control_messages(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        envelope.decode_control(payload)


def test_the_largest_that_is_allowed() -> None:
    assert envelope.decode_control(b'{"auth":"%b"}' % (b"x" * MAX_TOKEN_BYTES)) == Auth(b"x" * MAX_TOKEN_BYTES)
    assert envelope.decode_control(b'{"ping":"%b"}' % (b"x" * (MAX_PING_BYTES - 2))) is not None


def test_a_token_is_not_in_any_text() -> None:
    assert "s3cret" not in repr(Auth(b"s3cret")) + f"{Auth(b's3cret')}"
    with pytest.raises(MalformedMessage) as caught:
        envelope.decode_control(b'{"auth":["s3cret"]}')
    assert "s3cret" not in str(caught.value)


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps({"ack": value}).encode())))
def test_any_bytes_are_a_control_message_or_data_or_malformed(payload: bytes) -> None:
    try:
        control = envelope.decode_control(payload)
    except MalformedMessage:
        return
    assert control is None or isinstance(control, (Ack, Auth, Ping))


def test_a_ping_comes_back_in_the_pong() -> None:
    ping = envelope.decode_control(b'{"ping":{"t":1}}')
    assert isinstance(ping, Ping)
    assert envelope.decode(envelope.pong(ping.value)) == Pong({"t": 1})


def test_what_our_client_sends_is_understood() -> None:
    assert envelope.decode_control(envelope.ack('a"b')) == Ack('a"b')
    assert envelope.decode_control(envelope.auth("a.b.c")) == Auth(b"a.b.c")


# What servers send


def test_a_message_of_a_later_version_is_skipped() -> None:
    assert envelope.decode(b'{"hello":1}') is None


@pytest.mark.parametrize(
    "message",
    [b"", b"_CLOSE_", b"[]", b'{"id":1,"data":1}', b'{"id":"a"}', b'{"id":"a","base64":"!"}', b'{"id":"a","base64":1}',
     b'{"go_away":1}', b'{"go_away":{"reason":"x"}}', b'{"go_away":{"reason":1,"reconnect_in_ms":1}}', b"\xff",
     b"[" * 100_000],
)  # fmt: skip
def test_messages_that_are_not_zpush_v1(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        envelope.decode(message)


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_decode_or_are_malformed(message: bytes) -> None:
    try:
        decoded = envelope.decode(message)
    except MalformedMessage:
        return
    assert decoded is None or isinstance(decoded, (Push, GoAway, Pong))
