"""classify, negotiation, tokens and the bytes of every answer, read back by h11 and wsproto."""

from __future__ import annotations

import json

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, RejectData
from wsproto.events import Request as WsRequest

from tests.protocol.heads import KEY, PEER, UPGRADE, head, upgrade
from zpush.protocol import handshake
from zpush.protocol.handshake import RAW, V1, Refusal, RequestKind, classify, parse
from zpush.scoreboard import HANDSHAKE_RESULTS

HOST = {"Host": "push.example.com"}


def refused(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        classify(parse(data, PEER))
    assert caught.value.result in HANDSHAKE_RESULTS
    return caught.value


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """An answer as an HTTP client of another make reads it: whole, and with nothing left over."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    return response, body


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (upgrade(), RequestKind.WEBSOCKET),
        (upgrade(Upgrade="WebSocket"), RequestKind.WEBSOCKET),
        (upgrade(Upgrade="h2c, websocket"), RequestKind.WEBSOCKET),
        (upgrade(Connection="keep-alive, Upgrade"), RequestKind.WEBSOCKET),
        (upgrade(Content_Length="0"), RequestKind.WEBSOCKET),
        (upgrade("/ws?client=a"), RequestKind.WEBSOCKET),
        (head("/sse", HOST), RequestKind.EVENT_STREAM),
        (head("/sse", HOST, version="HTTP/1.0"), RequestKind.EVENT_STREAM),
        (head("/sse", UPGRADE), RequestKind.EVENT_STREAM),
        (head("/sse", {**HOST, "Origin": "https://a"}, method="OPTIONS"), RequestKind.PREFLIGHT),
        (head("/healthz", HOST), RequestKind.HTTP),
        (head("/healthcheck", method="HEAD", version="HTTP/1.0"), RequestKind.HTTP),
        (head("/readyz?x", HOST), RequestKind.HTTP),
    ],
)
def test_what_a_request_wants(data: bytes, kind: RequestKind) -> None:
    assert classify(parse(data, PEER)) is kind


@pytest.mark.parametrize(
    ("data", "status", "result"),
    [
        (upgrade("/"), 404, "not_found"),
        (upgrade("/ws/"), 404, "not_found"),
        (upgrade("/WS"), 404, "not_found"),
        (upgrade("/%77s"), 404, "not_found"),
        (upgrade("/ws/../ws"), 404, "not_found"),
        (head("*", HOST, method="OPTIONS"), 404, "not_found"),
        (head("push.example.com:443", HOST, method="CONNECT"), 404, "not_found"),
        (head("/ws", UPGRADE, method="POST"), 405, "method"),
        (head("/ws", {**UPGRADE, "Content-Length": "2"}, method="POST"), 405, "method"),
        (head("/ws", UPGRADE, method="HEAD"), 405, "method"),
        (head("/ws", HOST, method="OPTIONS"), 405, "method"),
        (head("/sse", HOST, method="HEAD"), 405, "method"),
        (head("/healthz", HOST, method="DELETE"), 405, "method"),
        (upgrade(Content_Length="5"), 400, "malformed"),
        (upgrade(Transfer_Encoding="chunked"), 400, "malformed"),
        (head("/sse", {**HOST, "Content-Length": "5"}), 400, "malformed"),
        (head("/ws", UPGRADE, version="HTTP/1.0"), 400, "malformed"),
        (head("/ws", HOST), 426, "version"),
        (upgrade(Upgrade=None), 426, "version"),
        (upgrade(Upgrade="h2c"), 426, "version"),
        (upgrade(Upgrade="websockets"), 426, "version"),
        (upgrade(Connection=None), 400, "malformed"),
        (upgrade(Connection="close"), 400, "malformed"),
        (upgrade(Connection="upgraded"), 400, "malformed"),
        (upgrade(Sec_WebSocket_Version="8"), 426, "version"),
        (upgrade(Sec_WebSocket_Version="13, 8"), 426, "version"),
        (upgrade(Sec_WebSocket_Version=None), 426, "version"),
        (upgrade(Sec_WebSocket_Key=None), 400, "malformed"),
        (upgrade(Sec_WebSocket_Key=""), 400, "malformed"),
        (upgrade(Sec_WebSocket_Key="AAAA"), 400, "malformed"),
        (upgrade(Sec_WebSocket_Key="A" * 24), 400, "malformed"),
        (upgrade(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j!Q=="), 400, "malformed"),
        (upgrade(Sec_WebSocket_Key=KEY + "AAAA"), 400, "malformed"),
        (upgrade(Sec_WebSocket_Key="\xff" * 24), 400, "malformed"),
    ],
)
def test_what_is_refused(data: bytes, status: int, result: str) -> None:
    refusal = refused(data)
    assert (refusal.status, refusal.result) == (status, result)


def test_405_names_the_methods_and_426_the_version() -> None:
    assert ("Allow", "GET") in refused(head("/ws", UPGRADE, method="POST")).headers
    assert ("Allow", "GET, OPTIONS") in refused(head("/sse", HOST, method="POST")).headers
    response, _ = read(handshake.refusal_response(refused(upgrade(Sec_WebSocket_Version="8"))))
    assert (b"sec-websocket-version", b"13") in list(response.headers)
    assert (b"upgrade", b"websocket") in list(response.headers)


@given(st.data())
def test_any_mutation_of_an_upgrade_is_classified_or_refused(data: st.DataObject) -> None:
    mutant = bytearray(upgrade("/ws?client=a", Sec_WebSocket_Protocol="zpush.v1", Cookie="zpush=x"))
    at = data.draw(st.integers(0, len(mutant) - 1))
    mutant[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        request = parse(bytes(mutant), PEER)
        kind = classify(request)
        token = handshake.find_token(request, b"zpush", True)
        subprotocol = handshake.negotiate(request)
    except Refusal as refusal:
        read(handshake.refusal_response(refusal))
    else:
        assert token is None or token
        assert subprotocol in (V1, RAW, b"")
        if kind is RequestKind.WEBSOCKET:
            assert handshake.accept_response(request, subprotocol).endswith(b"\r\n\r\n")


# Subprotocols


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, b""),
        ("zpush.v1", V1),
        ("zpush.raw", RAW),
        ("zpush.raw, zpush.v1", RAW),
        ("zpush.v1,zpush.raw", V1),
        ("graphql-ws, zpush.v1", V1),
        ("graphql-ws", b""),
        ("zpush.token.abc, zpush.v1", V1),
        ("zpush.token.abc", b""),
        ("ZPUSH.V1", b""),
        (", ,", b""),
    ],
)
def test_the_clients_first_known_subprotocol_is_chosen(offered: str | None, chosen: bytes) -> None:
    data = upgrade() if offered is None else upgrade(Sec_WebSocket_Protocol=offered)
    assert handshake.negotiate(parse(data, PEER)) == chosen


# Tokens


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({"Authorization": "Bearer a"}, b"a"),
        ({"Authorization": "bearer   a "}, b"a"),
        ({"Authorization": "Basic a"}, None),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Basic a", "Cookie": "zpush=c"}, b"c"),
        ({"Sec-WebSocket-Protocol": "zpush.v1, zpush.token.a.b.c"}, b"a.b.c"),
        ({"Sec-WebSocket-Protocol": "zpush.token."}, None),
        ({"Cookie": 'x=1; zpush="c"; y=2'}, b"c"),
        ({"Cookie": "zpushx=1; xzpush=2"}, None),
        ({"Cookie": "zpush=; zpush=late"}, None),
        ({"Cookie": "a=zpush"}, None),
        ({}, None),
    ],
)
def test_where_tokens_are_found(fields: dict[str, str], token: bytes | None) -> None:
    assert handshake.find_token(parse(head("/ws", UPGRADE | fields), PEER), b"zpush", False) == token


def test_the_order_in_which_tokens_are_found() -> None:
    fields = dict(UPGRADE)
    places = [
        ("Cookie", "zpush=cookie"),
        ("Sec-WebSocket-Protocol", "zpush.token.sub"),
        ("Authorization", "Bearer auth"),
    ]
    found = []
    for name, value in [("X", "x"), *places]:
        fields[name] = value
        found.append(handshake.find_token(parse(head("/ws?token=query", fields), PEER), b"zpush", True))
    assert found == [b"query", b"cookie", b"sub", b"auth"]


def test_places_that_are_switched_off() -> None:
    request = parse(head("/ws?token=query", {**UPGRADE, "Cookie": "zpush=c; =empty"}), PEER)
    assert handshake.find_token(request, b"", False) is None


def test_last_event_id() -> None:
    def of(value: str) -> str | None:
        return handshake.last_event_id(parse(head("/sse", {**HOST, "Last-Event-ID": value}), PEER))

    assert of("0198abc") == "0198abc"
    assert of("é".encode().decode("latin-1")) == "é"
    assert of("\xff") == "\ufffd"
    assert of("") is None
    assert of("x" * 256) is None
    assert handshake.last_event_id(parse(head("/sse", HOST), PEER)) is None


# Answers


def test_the_rfcs_own_accept_key() -> None:
    answer = handshake.accept_response(parse(upgrade(), PEER), b"")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Sec-WebSocket-Protocol" not in answer


@pytest.mark.parametrize("offered", [[], ["zpush.v1"], ["zpush.raw", "zpush.v1"], ["zpush.token.a.b", "zpush.v1"]])
def test_wsproto_accepts_the_handshake(offered: list[str]) -> None:
    client = WSConnection(ConnectionType.CLIENT)
    data = client.send(WsRequest(host="push.example.com", target="/ws", subprotocols=offered))
    request = parse(data, PEER)
    assert classify(request) is RequestKind.WEBSOCKET
    client.receive_data(handshake.accept_response(request, handshake.negotiate(request)))
    [event] = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == next((name for name in offered if "token" not in name), None)


def test_wsproto_reads_a_refusal() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    client.send(WsRequest(host="push.example.com", target="/ws"))
    client.receive_data(handshake.refusal_response(handshake.unauthorized()))
    reject, body = list(client.events())[:2]
    assert isinstance(reject, RejectConnection) and reject.status_code == 401
    assert isinstance(body, RejectData)


def test_a_token_is_never_in_an_answer() -> None:
    request = parse(upgrade(Sec_WebSocket_Protocol="zpush.token.s3cret, zpush.v1", Authorization="Bearer s3cret"), PEER)
    answer = handshake.accept_response(request, handshake.negotiate(request))
    assert b"s3cret" not in answer and b"\r\nSec-WebSocket-Protocol: zpush.v1\r\n" in answer


def test_the_event_streams_head() -> None:
    data = handshake.event_stream_head(b"https://app.example.com", 5000)
    fields, _, events = data.partition(b"\r\n\r\n")
    assert events == b"retry: 5000\n\n"
    lines = fields.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert set(lines[1:]) == {
        b"Content-Type: text/event-stream",
        b"Cache-Control: no-store",
        b"X-Accel-Buffering: no",
        b"Connection: close",
        b"Access-Control-Allow-Origin: https://app.example.com",
        b"Access-Control-Allow-Credentials: true",
        b"Vary: Origin",
    }
    without = handshake.event_stream_head(b"")
    assert without.endswith(b"\r\n\r\n") and b"Access-Control" not in without


def test_a_preflights_answer() -> None:
    response, body = read(handshake.preflight_response(b"https://app.example.com"), "OPTIONS")
    fields = dict(response.headers)
    assert (response.status_code, body) == (204, b"")
    assert fields[b"access-control-allow-origin"] == b"https://app.example.com"
    assert fields[b"access-control-allow-credentials"] == b"true"
    assert b"Authorization" in fields[b"access-control-allow-headers"]
    assert fields[b"vary"] == b"Origin"


def test_a_refusals_answer() -> None:
    refusal = handshake.unavailable("full", 'no "room"', 30)
    response, body = read(handshake.refusal_response(refusal, origin=b"https://a.example.com"))
    fields = dict(response.headers)
    assert response.status_code == 503
    assert (fields[b"retry-after"], fields[b"connection"]) == (b"30", b"close")
    assert fields[b"access-control-allow-origin"] == b"https://a.example.com"
    assert json.loads(body) == {"error": {"code": "full", "message": 'no "room"'}}


def test_204_and_head_have_no_body() -> None:
    data = handshake.refusal_response(Refusal(204, "replaced", "replaced by a newer connection"))
    response, body = read(data)
    assert (response.status_code, body) == (204, b"")
    assert b"content-length" not in dict(response.headers)
    response, body = read(handshake.http_response(200, b"ok\n", head_only=True), "HEAD")
    assert (dict(response.headers)[b"content-length"], body) == (b"3", b"")
    assert read(handshake.http_response(200, b"ok\n"))[1] == b"ok\n"


def test_an_unauthorized_client_learns_nothing_but_how_to_ask() -> None:
    response, body = read(handshake.refusal_response(handshake.unauthorized()))
    assert (response.status_code, dict(response.headers)[b"www-authenticate"]) == (401, b"Bearer")
    assert json.loads(body)["error"]["code"] == "unauthorized"
