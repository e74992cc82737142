"""Request heads on the client port (zpush/protocol/head.py, handshake.py, origin.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import h11
from hypothesis import strategies as st

from tests.fuzz.target import Target, damaged
from zpush.protocol import handshake
from zpush.protocol.handshake import Origins, Refusal, Request, RequestKind
from zpush.scoreboard import HANDSHAKE_RESULTS

PEER = "192.0.2.7:4711"
ORIGINS = [Origins([]), Origins(["https://*.example.com", "http://a"])]

METHODS = st.sampled_from([b"GET", b"HEAD", b"OPTIONS", b"POST", b"CONNECT", b"get", b"PRI"])
TARGETS = st.one_of(
    st.sampled_from(
        [b"/ws", b"/sse", b"/healthz", b"/ws?client=a&client=b", b"/ws?token=%ff", b"/sse?client=%00", b"*", b""]
    ),
    st.sampled_from([b"http://h/ws", b"http://h", b"http://u@h/ws", b"https://[::1]:1/ws?x", b"//h/ws", b"h:443"]),
    st.binary(max_size=12),
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"RTSP/1.1", b"http/1.1", b""])
USUAL = [
    (b"Host", b"push.example.com"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]
NAMES = st.sampled_from(
    [name for name, _ in USUAL]
    + [b"Origin", b"Authorization", b"Cookie", b"Content-Length", b"Transfer-Encoding", b"Sec-WebSocket-Protocol"]
    + [b"Last-Event-ID", b"Sec-Fetch-Site", b"Expect", b"X", b"host", b"X ", b"\xff", b""]
)
VALUES = st.one_of(
    st.sampled_from([value for _, value in USUAL]),
    st.sampled_from(
        [b"zpush.v1, zpush.raw", b"zpush.token.abc, zpush.v1", b"Bearer abc", b"zpush=abc; a=b", b"chunked"]
    ),
    st.sampled_from([b"http://push.example.com", b"https://x.example.com", b"null", b"cross-site", b"0", b"1", b"-1"]),
    st.binary(max_size=12),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n "])


def _head(method: bytes, target: bytes, version: bytes, usual: int, more: Any, end: bytes) -> bytes:
    fields = USUAL[:usual] + more
    lines = [b"%b %b %b" % (method, target, version), *(b"%b: %b" % field for field in fields)]
    return end.join(lines) + b"\r\n\r\n"


HEADS = damaged(st.builds(_head, METHODS, TARGETS, VERSIONS, st.integers(0, len(USUAL)), FIELDS, ENDS))


def check(head: bytes) -> None:
    """A head is a request that h11 reads the same way, or a refusal; and whatever is answered, h11 reads as that."""
    try:
        request = handshake.parse(head, PEER)
    except Refusal as refusal:
        check_refusal(refusal)
        return
    if request.method == "CONNECT" or b"transfer-encoding" in request.headers:  # llhttp takes any target, any coding
        assert answer(handshake.classify, request) is None
        return
    check_agreement(head, request)
    for ask in (
        handshake.last_event_id,
        lambda request: request.param("client"),
        lambda request: request.lists(b"connection", b"upgrade"),
        *(origins.check for origins in ORIGINS),
    ):
        answer(ask, request)
    token = answer(lambda request: handshake.find_token(request, b"zpush", True), request)
    assert token is None or isinstance(token, bytes)
    kind = answer(handshake.classify, request)
    chosen = handshake.negotiate(request)
    assert chosen in (b"", handshake.RAW, handshake.V1)
    if kind is RequestKind.WEBSOCKET:
        response = read_answer(handshake.accept_response(request, chosen), upgrade=True)
        assert response.status_code == 101
        assert dict(response.headers).get(b"sec-websocket-protocol", b"") == chosen
    origin = answer(ORIGINS[0].check, request)
    if kind is RequestKind.EVENT_STREAM and isinstance(origin, bytes):
        response = read_answer(handshake.event_stream_head(origin, 1000))
        assert dict(response.headers).get(b"access-control-allow-origin", b"") == origin


def answer(ask: Callable[[Request], Any], request: Request) -> Any:
    try:
        return ask(request)
    except Refusal as refusal:
        check_refusal(refusal)
        return None


def check_refusal(refusal: Refusal) -> None:
    assert refusal.result in HANDSHAKE_RESULTS
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    client.receive_data(handshake.refusal_response(refusal))
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == refusal.status
    data = client.next_event()
    assert isinstance(data, h11.Data)
    assert json.loads(bytes(data.data))["error"]["code"] == refusal.result
    assert isinstance(client.next_event(), h11.EndOfMessage)


def read_answer(response: bytes, upgrade: bool = False) -> h11.Response | h11.InformationalResponse:
    """The answer's head as a client reads it."""
    client = h11.Connection(h11.CLIENT)
    fields = [("Host", "h"), *([("Upgrade", "websocket"), ("Connection", "Upgrade")] if upgrade else [])]
    client.send(h11.Request(method="GET", target="/", headers=fields))
    client.receive_data(response)
    event = client.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    if upgrade:
        assert client.trailing_data[0] == b"", "bytes behind the 101"
    return event


def check_agreement(head: bytes, request: Request) -> None:
    """Two servers that read one head differently are how requests are smuggled."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(head)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert event.method.decode() == request.method
    assert event.http_version == (b"1.1" if request.http11 else b"1.0")
    seen: dict[bytes, bytes] = {}
    for name, value in event.headers:
        seen[name] = seen[name] + (b"; " if name == b"cookie" else b", ") + value if name in seen else value
    target = event.target.decode()
    if target.lower().startswith(("http://", "https://")):
        seen[b"host"] = urlsplit(target).netloc.encode()
        target = target[target.index("://") + 3 :].removeprefix(seen[b"host"].decode())
        target = target if target.startswith("/") else f"/{target}"
    assert target.partition("?")[::2] == (request.path, request.query.decode())
    assert seen == request.headers


TARGET = Target("heads", HEADS, check, 200)
