"""zpush.v1 in both directions (zpush/protocol/envelope.py)."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.target import Target, damaged
from zpush.errors import MalformedMessage
from zpush.protocol import envelope
from zpush.protocol.envelope import Ack, Auth, Ping, Push
from zpush.protocol.message import Kind, check_id

JSON_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.just("\ud800")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.sampled_from(["ack", "auth", "ping", "pong", "id", "data", "base64", "go_away", "reason", "reconnect_in_ms"])
OBJECTS = st.dictionaries(NAMES, st.one_of(JSON_VALUES, st.just("aGk="), st.just({"reason": "x"})), max_size=3)
DEEP = st.builds(
    lambda depth, open_, close: open_ * depth + b"1" + close * depth,
    st.sampled_from([2, 100, 900, 1000, 1100, 5000, 100_000]),
    st.sampled_from([b"[", b'{"a":']),
    st.sampled_from([b"]", b"}", b""]),
)
ODD = st.sampled_from(
    [
        b'{"ack":"\\ud800"}',
        b'{"ping":' + b"9" * 5000 + b"}",
        b'{"auth":"\\udfff"}',
        b"9" * 5000,
        b"{",
        b' \n{"ack":"a"}',
    ]
)
TEXTS = damaged(st.one_of(OBJECTS.map(lambda value: json.dumps(value).encode()), DEEP, ODD, st.binary(max_size=20)))


def check_received(payload: bytes) -> None:
    """What a client sends is a control message, data, or malformed; what a server sends is read or malformed."""
    try:
        control = envelope.decode_control(payload)
    except MalformedMessage:
        control = None
    if isinstance(control, Ack):
        check_id(control.id, "ack")
    elif isinstance(control, Auth):
        assert 0 < len(control.token) <= envelope.MAX_TOKEN_BYTES
    elif isinstance(control, Ping):
        assert len(control.value) <= envelope.MAX_PING_BYTES
        envelope.pong(control.value).decode()
    try:
        envelope.decode(payload)
    except MalformedMessage:
        pass


def check_sent(value: tuple[bytes, int, bytes]) -> None:
    """Whatever is pushed, the envelope is one JSON object whose payload comes out as it went in."""
    id, kind, payload = value
    text = envelope.encode(id, kind, payload)
    text.decode()
    push = envelope.decode(text)
    assert isinstance(push, Push)
    assert push.id == id.decode(errors="replace")
    if isinstance(push.data, bytes):
        assert push.data == payload
    elif kind == Kind.TEXT:
        assert push.data == payload.decode()
    else:
        assert push.data == payload.decode() or json.dumps(push.data) == json.dumps(python_value(payload))


def python_value(text: bytes) -> Any:
    """json.loads, except that no integer is too long for it."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 4300 else float(digits))


RECEIVED = Target("control", TEXTS, check_received, 200)
SENT = Target(
    "envelope",
    st.tuples(
        st.one_of(st.text(max_size=10).map(str.encode), st.binary(max_size=10)), st.sampled_from([1, 2, 3]), TEXTS
    ),
    check_sent,
    150,
)
