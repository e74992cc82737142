"""parse: every head is a Request or a Refusal; nothing is read in a way that another server might not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.heads import PEER, UPGRADE, head, upgrade
from zpush.protocol.head import Refusal, Request, parse
from zpush.scoreboard import HANDSHAKE_RESULTS

FIELDS = list(UPGRADE.items())


def refused(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(data, PEER)
    assert caught.value.result in HANDSHAKE_RESULTS
    return caught.value


def test_a_browsers_head() -> None:
    request = parse(upgrade("/ws?client=a", Cookie="a=1; zpush=2", X_Padded="  x \t "), PEER)
    assert (request.method, request.path, request.query, request.http11) == ("GET", "/ws", b"client=a", True)
    assert request.header(b"host") == b"push.example.com"
    assert request.header(b"x-padded") == b"x"
    assert request.header(b"absent") == b""
    assert request.peer_host == "127.0.0.1"


@pytest.mark.parametrize(("peer", "host"), [("[::1]:5", "::1"), ("::1:5", "::1"), ("10.0.0.1:80", "10.0.0.1")])
def test_the_peers_address(peer: str, host: str) -> None:
    assert parse(head("/ws", FIELDS), peer).peer_host == host


HOSTILE = {
    "nothing": b"",
    "blank line alone": b"\r\n\r\n",
    "blank line first": b"\r\n" + head("/ws", FIELDS),
    "no blank line": head("/ws", FIELDS)[:-2],
    "bytes after the head": head("/ws", FIELDS) + b"x",
    "a second head after the first": head("/healthz", FIELDS[:1]) * 2,
    "a frame after the upgrade that looks like a blank line": head("/ws", FIELDS) + b"\r\n\r\n",
    "body that ends like a head": head("/ws", [*FIELDS[:1], ("Content-Length", "4")]) + b"\r\n\r\n",
    "NUL in the path": head("/w\0s", FIELDS),
    "NUL in a value": head("/ws", [*FIELDS, ("X", "a\0b")]),
    "control character in a value": head("/ws", [*FIELDS, ("X", "a\x01b")]),
    "DEL in a value": head("/ws", [*FIELDS, ("X", "a\x7fb")]),
    "bare LF": head("/ws", FIELDS).replace(b"\r\nUpgrade", b"\nUpgrade"),
    "bare CR": head("/ws", [*FIELDS, ("X", "a\rb")]),
    "only LF": head("/ws", FIELDS).replace(b"\r\n", b"\n"),
    "obs-fold with a space": head("/ws", [*FIELDS, ("X", "a\r\n b")]),
    "obs-fold with a tab": head("/ws", [*FIELDS, ("X", "a\r\n\tb")]),
    "obs-fold before the first field": head("/ws", FIELDS).replace(b"\r\nHost", b"\r\n Host", 1),
    "space before the colon": head("/ws", FIELDS).replace(b"Upgrade:", b"Upgrade :"),
    "field without a name": head("/ws", [*FIELDS, ("", "x")]),
    "field without a colon": head("/ws", FIELDS).replace(b"Upgrade: websocket", b"Upgrade websocket"),
    "non-ASCII name": head("/ws", [*FIELDS, ("X\xff", "x")]),
    "non-ASCII path": head("/w\xc3\xa9", FIELDS),
    "fragment": head("/ws#x", FIELDS),
    "no host": head("/ws", FIELDS[1:]),
    "two hosts": head("/ws", [*FIELDS, ("host", "push.example.com")]),
    "empty host": head("/ws", [("Host", ""), *FIELDS[1:]]),
    "host with a path": head("/ws", [("Host", "a/b"), *FIELDS[1:]]),
    "host with a user": head("/ws", [("Host", "a@b"), *FIELDS[1:]]),
    "host with a bad port": head("/ws", [("Host", "a:b"), *FIELDS[1:]]),
    "absolute target without a host": head("http:///ws", FIELDS),
    "two keys": head("/ws", [*FIELDS, FIELDS[-1]]),
    "two versions": head("/ws", [*FIELDS, ("Sec-WebSocket-Version", "8")]),
    "two Upgrade headers": head("/ws", [*FIELDS, ("Upgrade", "websocket")]),
    "two Origins": head("/ws", [*FIELDS, ("Origin", "https://a"), ("Origin", "https://b")]),
    "two Authorizations": head("/ws", [*FIELDS, ("Authorization", "Bearer a"), ("authorization", "Bearer b")]),
    "Content-Length twice": head("/ws", [*FIELDS, ("Content-Length", "0"), ("Content-Length", "0")]),
    "Content-Length and Transfer-Encoding": head(
        "/ws", [*FIELDS, ("Content-Length", "4"), ("Transfer-Encoding", "chunked")]
    ),
    "Content-Length that is no number": head("/ws", [*FIELDS, ("Content-Length", "-1")]),
    "Content-Length beyond 64 bits": head("/ws", [*FIELDS, ("Content-Length", "9" * 30)]),
    "HTTP/0.9": b"GET /ws\r\n\r\n",
    "HTTP/0.9 with fields": head("/ws", FIELDS, version="HTTP/0.9"),
    "HTTP/2.0": head("/ws", FIELDS, version="HTTP/2.0"),
    "HTTP/1.2": head("/ws", FIELDS, version="HTTP/1.2"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "RTSP": head("/ws", FIELDS, version="RTSP/1.1"),
    "HTTP in lower case": head("/ws", FIELDS, version="http/1.1"),
    "no version": b"GET /ws \r\nHost: a\r\n\r\n",
    "unknown method": head("/ws", FIELDS, method="PUSH"),
    "lower-case method": head("/ws", FIELDS, method="get"),
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "PROXY protocol before the head": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + head("/ws", FIELDS),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_heads_are_malformed(data: bytes) -> None:
    refusal = refused(data)
    assert (refusal.status, refusal.result) == (400, "malformed")


@pytest.mark.parametrize(
    "data",
    [
        head("/ws", [*FIELDS, *((f"X-{i}", "y") for i in range(10_000))]),
        head("/ws", [*FIELDS, ("X", "y" * (1 << 20))]),
        head("/ws", [*FIELDS, *[("X", "y")] * 10_000]),
        head("/" + "a" * 100_000, FIELDS),
    ],
    ids=["10,000 fields", "1 MiB field", "one field 10,000 times", "100 kB path"],
)
def test_size_is_for_the_caller(data: bytes) -> None:
    assert isinstance(parse(data, PEER), Request)


def test_list_fields_may_come_several_times() -> None:
    fields = [*FIELDS, ("Connection", "keep-alive"), ("Cookie", "a=1"), ("cookie", "b=2")]
    request = parse(head("/ws", fields), PEER)
    assert request.header(b"connection") == b"Upgrade, keep-alive"
    assert request.lists(b"connection", b"upgrade") and request.lists(b"connection", b"keep-alive")
    assert request.header(b"cookie") == b"a=1; b=2"


def test_an_absolute_targets_authority_replaces_host() -> None:
    request = parse(head("http://other.example.com:81/ws?x=1", FIELDS), PEER)
    assert (request.path, request.query, request.header(b"host")) == ("/ws", b"x=1", b"other.example.com:81")
    assert parse(head("https://a.example.com", FIELDS), PEER).path == "/"


def test_http_1_0_without_host_is_well_formed() -> None:
    request = parse(head("/healthz", version="HTTP/1.0"), PEER)
    assert not request.http11


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("client=a", "a"),
        ("x=1&client=a&y", "a"),
        ("client=%F0%9F%98%80%20b+c", "😀 b c"),
        ("client=%0A", "\n"),
        ("client=a=b", "a=b"),
        ("client=%zz", "%zz"),
        ("client=", ""),
        ("client", None),
        ("clients=a", None),
        ("", None),
    ],
)
def test_query_parameters(query: str, value: str | None) -> None:
    assert parse(head(f"/ws?{query}", FIELDS), PEER).param("client") == value


@pytest.mark.parametrize("query", ["client=a&client=b", "client=%ff", "client=%ed%a0%80"])
def test_query_parameters_that_could_be_read_in_two_ways(query: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(head(f"/ws?{query}", FIELDS), PEER).param("client")
    assert caught.value.status == 400


def test_a_secret_in_the_request_is_not_in_its_refusal() -> None:
    refusal = refused(head("/ws?token=s3cret\0", [*FIELDS, ("Authorization", "Bearer s3cret\x01")]))
    assert "s3cret" not in str(refusal) + refusal.reason


LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([f"{name}: {value}".encode() for name, value in FIELDS]),
        st.sampled_from([b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close", b" folded", b""]),
    ),
    max_size=8,
)


@given(
    st.one_of(st.binary(max_size=200), LINES.map(lambda lines: b"\r\n".join([b"GET /ws HTTP/1.1", *lines, b"", b""])))
)
@example(b"\r\n\r\n")
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    try:
        request = parse(data, PEER)
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert data.index(b"\r\n\r\n") == len(data) - 4
        assert request.header(b"host") or not request.http11


@given(st.data())
def test_any_mutation_of_a_valid_head_is_a_request_or_a_refusal(data: st.DataObject) -> None:
    valid = bytearray(upgrade("/ws?client=a"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(valid) - 1))
        valid[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        request = parse(bytes(valid), PEER)
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        lines = bytes(valid).split(b"\r\n")
        assert all(line and b"\n" not in line and b"\r" not in line and line[0] not in b" \t" for line in lines[:-2])
        assert len(request.headers) <= len(lines) - 3
