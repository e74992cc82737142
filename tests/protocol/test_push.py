"""Push bodies: what is accepted exactly, what is refused with which field, and that nothing else can happen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpush.errors import MalformedMessage
from zpush.protocol.message import NEVER, Kind, Priority, Target
from zpush.protocol.push import (
    MAX_DEPTH,
    MAX_TTL_S,
    SLICE_BYTES,
    PushRequest,
    TooLarge,
    body_bytes,
    error_body,
    parse_batch,
    parse_push,
    queued_body,
    split_lines,
)

NOW_MS = 1_700_000_000_000
LIMIT = 65536
TO = {"client": "c1"}


def parse(body: Any, limit: int = LIMIT) -> PushRequest:
    return parse_push(body if isinstance(body, bytes) else json.dumps(body).encode(), NOW_MS, limit)


def parse_lines(body: bytes, max_lines: int = 10, limit: int = LIMIT) -> list[PushRequest | MalformedMessage]:
    return [line for part in parse_batch(body, NOW_MS, max_lines, limit) for line in part]


# ---- what is accepted


def test_the_least_push() -> None:
    push = parse({"to": TO, "text": "hi"})
    assert (push.target, push.keys, push.payload, push.kind) == (Target.CLIENT, ("c1",), b"hi", Kind.TEXT)
    assert (push.priority, push.expires_ms, push.direct) == (Priority.NORMAL, NEVER, False)
    assert 0 < len(push.id) <= 32
    assert push.id != parse({"to": TO, "text": "hi"}).id


def test_everything_said() -> None:
    body = {"to": TO, "base64": "AAH/", "priority": "high", "ttl": 60, "id": "my-id", "direct": True}
    push = parse(body)
    assert (push.payload, push.kind, push.id, push.direct) == (b"\x00\x01\xff", Kind.BINARY, "my-id", True)
    [message] = push.messages()
    assert (message.key, message.priority, message.expires_ms) == ("c1", Priority.HIGH, NOW_MS + 60_000)
    assert message.queued_ms == NOW_MS


@pytest.mark.parametrize(
    ("to", "target", "keys"),
    [
        ({"client": "ü/\u2603"}, Target.CLIENT, ("ü/\u2603",)),
        ({"clients": ["a", "b", "a"]}, Target.CLIENT, ("a", "b")),
        ({"user": "u1"}, Target.USER, ("u1",)),
        ({"all": True}, Target.ALL, ("",)),
    ],
)
def test_targets(to: dict[str, Any], target: Target, keys: tuple[str, ...]) -> None:
    push = parse({"to": to, "text": ""})
    assert (push.target, push.keys) == (target, keys)
    assert [(m.key, m.target, m.id) for m in push.messages()] == [(key, target, push.id) for key in keys]


@pytest.mark.parametrize(
    ("ttl", "ms"),
    [
        (1, 1000),
        (0.5, 500),
        ("60s", 60_000),
        ("250ms", 250),
        ("1.5m", 90_000),
        ("2h", 7_200_000),
        ("30d", 2_592_000_000),
    ],
)
def test_ttl(ttl: Any, ms: int) -> None:
    assert parse({"to": TO, "text": "", "ttl": ttl}).expires_ms == NOW_MS + ms


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (b'{ "a" : [ 1 , 2 ] ,\n\t"b" : null }', b'{"a":[1,2],"b":null}'),
        (b'" spaces \\u00e9 stay "', b'" spaces \\u00e9 stay "'),
        (b"1.10", b"1.10"),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b"1e999", b"1e999"),
        (b"null", b"null"),
        (b"false", b"false"),
        ('"é☃"'.encode(), '"é☃"'.encode()),
    ],
)
def test_data_becomes_compact_json_and_nothing_else_changes(written: bytes, sent: bytes) -> None:
    push = parse(b'{"to":{"client":"c1"},"data":' + written + b"}")
    assert (push.payload, push.kind) == (sent, Kind.JSON)


# ---- what is refused

REFUSED = {
    "no target": ({"text": ""}, "to"),
    "empty target": ({"to": {}, "text": ""}, "to"),
    "two targets": ({"to": {"client": "a", "user": "b"}, "text": ""}, "to"),
    "all and client": ({"to": {"client": "a", "all": False}, "text": ""}, "to"),
    "not all": ({"to": {"all": False}, "text": ""}, "to.all"),
    "all is a number": ({"to": {"all": 1}, "text": ""}, "to.all"),
    "no clients": ({"to": {"clients": []}, "text": ""}, "to.clients"),
    "clients is text": ({"to": {"clients": "a"}, "text": ""}, "to.clients"),
    "a client is a number": ({"to": {"clients": ["a", 1]}, "text": ""}, "to.clients[1]"),
    "client is null": ({"to": {"client": None}, "text": ""}, "to.client"),
    "client is empty": ({"to": {"client": ""}, "text": ""}, "to.client"),
    "client with newline": ({"to": {"client": "a\nb"}, "text": ""}, "to.client"),
    "client with NUL": ({"to": {"client": "a\0b"}, "text": ""}, "to.client"),
    "client of 5 kB": ({"to": {"client": "a" * 5000}, "text": ""}, "to.client"),
    "user of 256 bytes": ({"to": {"user": "ü" * 128}, "text": ""}, "to.user"),
    "one of many is bad": ({"to": {"clients": ["a", ""]}, "text": ""}, "to.clients"),
    "unknown in to": ({"to": {"device": "a"}, "text": ""}, "to.device"),
    "unknown field": ({"to": TO, "text": "", "prio": "high"}, "prio"),
    "no payload": ({"to": TO}, "data"),
    "text and data": ({"to": TO, "text": "", "data": 1}, "data"),
    "text and base64": ({"to": TO, "text": "", "base64": ""}, "data"),
    "text is a number": ({"to": TO, "text": 1}, "text"),
    "text is null": ({"to": TO, "text": None}, "text"),
    "base64 with rubbish": ({"to": TO, "base64": "a!b="}, "base64"),
    "base64 without padding": ({"to": TO, "base64": "aGk"}, "base64"),
    "priority urgent": ({"to": TO, "text": "", "priority": "urgent"}, "priority"),
    "priority number": ({"to": TO, "text": "", "priority": 1}, "priority"),
    "ttl negative": ({"to": TO, "text": "", "ttl": -1}, "ttl"),
    "ttl zero": ({"to": TO, "text": "", "ttl": 0}, "ttl"),
    "ttl too long": ({"to": TO, "text": "", "ttl": MAX_TTL_S + 1}, "ttl"),
    "ttl without unit": ({"to": TO, "text": "", "ttl": "60"}, "ttl"),
    "ttl negative text": ({"to": TO, "text": "", "ttl": "-60s"}, "ttl"),
    "ttl unknown unit": ({"to": TO, "text": "", "ttl": "60 seconds"}, "ttl"),
    "ttl huge": ({"to": TO, "text": "", "ttl": 10**400}, "ttl"),
    "ttl bool": ({"to": TO, "text": "", "ttl": True}, "ttl"),
    "direct text": ({"to": TO, "text": "", "direct": "yes"}, "direct"),
    "id empty": ({"to": TO, "text": "", "id": ""}, "id"),
    "id too long": ({"to": TO, "text": "", "id": "i" * 256}, "id"),
    "id of a close event": ({"to": TO, "text": "", "id": "zpush:close:4002"}, "id"),
    "id with newline": ({"to": TO, "text": "", "id": "a\nb"}, "id"),
    "not an object": ([], ""),
    "empty": (b"", ""),
    "two values": (b'{"to":{"client":"a"},"text":""} {}', ""),
    "trailing comma": (b'{"to":{"client":"a"},"text":"",}', ""),
    "NaN": (b'{"to":{"client":"a"},"data":NaN}', ""),
    "byte order mark": (b"\xef\xbb\xbf{}", ""),
    "bad UTF-8 in text": (b'{"to":{"client":"a"},"text":"\xff"}', ""),
    "bad UTF-8 in an id": (b'{"to":{"client":"\xff"},"text":""}', ""),
    "bad UTF-8 in data": (b'{"to":{"client":"a"},"data":"\xff"}', "data"),
    "surrogate in UTF-8": (b'{"to":{"client":"a"},"data":"\xed\xa0\x80"}', "data"),
    "lone surrogate": (b'{"to":{"client":"a"},"text":"\\ud800"}', ""),
    "bad escape in data": (b'{"to":{"client":"a"},"data":"\\x"}', ""),
    "10,000 brackets": (b'{"to":{"client":"a"},"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "data"),
    "brackets of objects": (b'{"to":{"client":"a"},"data":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "data"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field(name: str) -> None:
    body, field = REFUSED[name]
    with pytest.raises(MalformedMessage) as refused:
        parse(body)
    assert refused.value.field == field
    assert refused.value.reason
    assert not isinstance(refused.value, TooLarge)


def test_a_hostile_field_name_is_not_echoed_whole() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse({"to": TO, "text": "", "x" * 10_000: 1})
    assert len(refused.value.reason) + len(refused.value.field) < 500


def test_depth_is_bounded_exactly_and_brackets_in_strings_do_not_count() -> None:
    def nested(depth: int) -> bytes:
        return b'{"to":{"client":"a"},"data":' + b"[" * depth + b'"\\"[[[{{{"' + b"]" * depth + b"}"

    wide = b"[" + b"[]," * 1000 + b"[]]"
    assert parse(b'{"to":{"client":"a"},"data":' + wide + b"}").payload == wide
    assert parse(nested(MAX_DEPTH)).payload.startswith(b"[[[")
    with pytest.raises(MalformedMessage, match="nested"):
        parse(nested(MAX_DEPTH + 1))


nested_values = st.recursive(
    st.sampled_from(["", "[", '"]', "\\", '\\"[{', 1, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("a[\\"), inner, max_size=3),
    max_leaves=30,
)


def _nested(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_nested, inner), default=0)


@settings(max_examples=300, deadline=None)
@given(nested_values, st.integers(MAX_DEPTH - 6, MAX_DEPTH - 1), st.booleans())
def test_depth_is_bounded_exactly_whatever_the_shape(value: Any, around: int, chain: bool) -> None:
    """Beside it stand brackets enough that all of them are looked at, wide or in a chain."""
    beside = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) if chain else f"[{'[],' * MAX_DEPTH}[]]"
    data = f"[{beside},{'[' * around}{json.dumps(value)}{']' * around}]"
    body = f'{{"to":{{"client":"a"}},"data":{data}}}'.encode()
    if 1 + around + _nested(value) > MAX_DEPTH:
        with pytest.raises(MalformedMessage, match="nested"):
            parse(body)
    else:
        assert json.loads(parse(body).payload) == json.loads(data)


def test_the_payload_is_bounded_after_decoding() -> None:
    assert len(parse({"to": TO, "text": "x" * 100}, limit=100).payload) == 100
    assert len(parse({"to": TO, "text": "\u0001" * 100}, limit=100).payload) == 100  # six bytes each in the body
    for body in ({"to": TO, "text": "x" * 101}, {"to": TO, "text": "ü" * 51}, {"to": TO, "base64": "AAAA" * 34}):
        with pytest.raises(TooLarge):
            parse(body, limit=100)


def test_any_payload_of_the_limit_fits_its_body_bound() -> None:
    body = json.dumps({"to": TO, "text": "\u0001" * 1000, "priority": "normal", "ttl": "60s", "direct": True})
    assert len(body) <= body_bytes(1000)


# ---- batches


def test_a_bad_line_spoils_no_other() -> None:
    good = b'{"to":{"client":"a"},"text":"1"}'
    lines = [good, b"not json", good + b"\r", b"", b'{"to":{"client":"a"},"text":"\xff"}', good]
    results = parse_lines(b"\n".join(lines) + b"\n")
    assert [isinstance(r, PushRequest) for r in results] == [True, False, True, False, False, True]


def test_the_last_newline_is_optional() -> None:
    good = b'{"to":{"client":"a"},"text":"1"}'
    for body in (good, good + b"\n", good + b"\r\n"):
        assert len(parse_lines(body, 1)) == 1


def test_a_line_past_the_bound_is_its_own_error() -> None:
    good = b'{"to":{"client":"a"},"text":"1"}'
    endless = b'{"to":{"client":"a"},"text":"' + b"x" * body_bytes(100) + b'"}'
    first, second = parse_lines(endless + b"\n" + good, limit=100)
    assert isinstance(first, TooLarge)
    assert isinstance(second, PushRequest)


@pytest.mark.parametrize("body", [b"\n" * 11, b"x\n" * 11, b"x\n" * 10 + b"x"])
def test_too_many_lines(body: bytes) -> None:
    with pytest.raises(TooLarge):
        split_lines(body, 10)
    assert len(split_lines(b"x\n" * 10, 10)) == 10


@pytest.mark.parametrize("body", [b"", b"  "])
def test_an_empty_batch_is_an_error(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_lines(body)


@pytest.mark.parametrize("body", [b'{"to":{"client":"a"},"text":"1"}', b'{"to":{"client":"a"},"data":[[]]}', b"", b"{"])
def test_a_batch_is_read_in_slices(body: bytes) -> None:
    parts = list(parse_batch(b"\n".join([body] * 1000) + b"\n", NOW_MS, 1000, LIMIT))
    assert [len(part) for part in parts[:-1]] == [len(parts[0])] * (len(parts) - 1)
    assert (sum(map(len, parts)), len(parts[0]) <= 256) == (1000, True)
    assert len(next(parse_batch(b"x" * SLICE_BYTES + b"\n" + body, NOW_MS, 10, LIMIT))) == 1
    assert len(next(parse_batch(b"\n".join([body] * 100) + b"\n", NOW_MS, 100, LIMIT))) == 100, "the usual batch is one"


# ---- answers


def test_answers() -> None:
    assert json.loads(queued_body("i")) == {"id": "i", "queued": True}
    error = {"error": {"code": "malformed", "message": "no", "field": "ttl"}}
    assert json.loads(error_body("malformed", "no", "ttl")) == error


# ---- any bytes

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
likely = st.fixed_dictionaries(
    {},
    optional={
        "to": st.dictionaries(st.sampled_from(["client", "clients", "user", "all"]), values, max_size=2) | st.just(TO),
        "data": values,
        "text": values,
        "base64": values,
        "priority": st.sampled_from(["high", "normal", "low"]) | values,
        "ttl": values,
        "id": values,
        "direct": st.booleans() | values,
        "other": values,
    },
)


def _accepted_or_refused(body: bytes) -> None:
    try:
        push = parse_push(body, NOW_MS, LIMIT)
    except MalformedMessage:
        return
    assert push.keys
    assert all(len(key.encode()) <= 255 for key in push.keys)
    assert 1 <= len(push.id.encode()) <= 255
    assert push.expires_ms == NEVER or push.expires_ms > NOW_MS
    if push.kind is not Kind.BINARY:
        push.payload.decode()


@settings(max_examples=300, deadline=None)
@given(likely)
def test_any_json_is_accepted_or_refused(body: dict[str, Any]) -> None:
    _accepted_or_refused(json.dumps(body).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\ tocliendxu1', max_size=200).map(str.encode))
def test_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    _accepted_or_refused(body)
    for line in parse_lines(body + b"\n.", 1000):
        assert isinstance(line, PushRequest | MalformedMessage)


@settings(max_examples=300, deadline=None)
@given(values, st.booleans())
def test_data_means_the_same_when_it_arrives(value: Any, ascii_only: bool) -> None:
    text = json.dumps({"to": TO, "data": value}, ensure_ascii=ascii_only, indent=2)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    try:
        push = parse(body)
    except MalformedMessage:
        assert "\\ud" in text  # a lone surrogate as an escape
        return
    assert json.loads(push.payload) == value
