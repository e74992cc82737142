"""Bodies of `POST /v1/push` (zpush/protocol/push.py)."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.control import DEEP, JSON_VALUES, python_value
from tests.fuzz.target import Target, damaged
from zpush.errors import MalformedMessage
from zpush.protocol.message import MAX_ID_BYTES, NEVER, Kind, check_payload
from zpush.protocol.message import Target as Whom
from zpush.protocol.push import MAX_TTL_S, PushRequest, TooLarge, error_body, parse_batch, parse_push
from zpush.server.api_context import fault_response

NOW_MS = 1_700_000_000_000
PAYLOAD_BYTES = 64
MAX_LINES = 4

IDS = st.one_of(
    st.sampled_from(["c1", "c2", "", "a\nb", "a\0b", "é" * 128, "x" * 255, "x" * 256, "\ud800", "😀", "\x85"]),
    st.text(max_size=6),
)
TO = st.one_of(
    st.sampled_from([{"client": "c1"}, {"user": "u1"}, {"all": True}, {"all": False}, {}, {"clients": []}]),
    st.fixed_dictionaries({"clients": st.lists(IDS, max_size=4)}),
    st.fixed_dictionaries({"client": IDS}),
    JSON_VALUES,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "to": TO,
    "data": JSON_VALUES,
    "text": st.text(max_size=70),
    "base64": st.sampled_from(["aGk=", "aGk", "!", "", "A" * 400]),
    "priority": st.sampled_from(["high", "normal", "low", "urgent", 1]),
    "ttl": st.one_of(
        st.sampled_from([60, 0, -1, 1e300, 0.0001, "60s", "5m", "5 m", "99999999999d", "1.5s", "1e3s", 10**30, True]),
        st.floats(allow_nan=False),
    ),
    "id": IDS,
    "direct": st.sampled_from([True, False, "yes"]),
    "wait_ack": st.sampled_from([1, 0, 30, 31, -1, 1e-9, 1e308]),
    "secure_token": st.sampled_from(["abc", "", "x" * 65, "\ud800"]),
    "unknown\ud800": st.none(),
}
_PAYLOAD = st.sampled_from(["data", "text", "base64"])
PUSHES = st.one_of(
    st.builds(
        lambda to, field, value, more: {"to": to, field: value, **more},
        TO,
        _PAYLOAD,
        st.one_of(JSON_VALUES, st.just("aGk=")),
        st.fixed_dictionaries(
            {}, optional={k: v for k, v in FIELDS.items() if k not in ("to", "data", "text", "base64")}
        ),
    ),
    st.fixed_dictionaries({}, optional=FIELDS),
)


def _written(push: Any, compact: bool) -> bytes:
    return json.dumps(push, ensure_ascii=compact, separators=(",", ":") if compact else None).encode(
        "utf-8", "surrogatepass"
    )


BODIES = damaged(
    st.one_of(
        st.builds(_written, PUSHES, st.booleans()),
        DEEP.map(lambda deep: b'{"to":{"client":"c"},"data":' + deep + b"}"),
        st.binary(max_size=20),
    )
)


def check_one(body: bytes) -> None:
    """A body is a push that may be sent as it is, or malformed with a reason that can be told."""
    try:
        push = parse_push(body, NOW_MS, PAYLOAD_BYTES)
    except MalformedMessage as error:
        check_told(error)
        return
    check_push(push)
    if push.kind is Kind.JSON:
        data = python_value(body)["data"]
        assert json.dumps(python_value(push.payload)) == json.dumps(data), "data was changed"


def check_push(push: PushRequest) -> None:
    assert len(push.payload) <= PAYLOAD_BYTES
    check_payload(push.payload, push.kind)
    assert push.keys
    for message in push.messages():
        assert (message.key == "") == (push.target is Whom.ALL)
        assert len(message.key.encode()) <= MAX_ID_BYTES
        assert 0 < len(message.id.encode()) <= MAX_ID_BYTES
    assert push.expires_ms == NEVER or NOW_MS < push.expires_ms <= NOW_MS + MAX_TTL_S * 1000


def check_told(error: MalformedMessage) -> None:
    status = 413 if isinstance(error, TooLarge) else 400
    response = fault_response(error)
    assert response.status == status
    assert len(response.body) < 2000, "a hostile field is echoed whole"
    assert set(json.loads(response.body)["error"]) == {"code", "message", "field"}
    json.loads(error_body("malformed", error.reason, error.field))


def check_batch(body: bytes) -> None:
    """A batch is its lines: each is read or refused as it would be alone."""
    try:
        answers = [answer for part in parse_batch(body, NOW_MS, MAX_LINES, PAYLOAD_BYTES) for answer in part]
    except MalformedMessage as error:
        check_told(error)
        return
    lines = body.split(b"\n")[: len(answers)]
    assert len(answers) <= MAX_LINES
    assert not b"".join(body.split(b"\n")[len(answers) :]).strip(), "a line without an answer"
    for line, answer in zip(lines, answers, strict=True):
        if isinstance(answer, MalformedMessage):
            check_told(answer)
            continue
        alone = parse_push(line, NOW_MS, PAYLOAD_BYTES)
        assert (alone.keys, alone.payload, alone.kind) == (answer.keys, answer.payload, answer.kind)


ONE = Target("push", BODIES, check_one, 200)
BATCH = Target("batch", st.lists(BODIES, max_size=6).map(b"\n".join), check_batch, 60)
