"""The floor says what a WebSocket server has to say, else its price would be no measure."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from benchmarks.native import Floor, floor
from zpush._fast.frames import encode_frame

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def bare(native: None) -> Iterator[Floor]:
    with floor() as running:
        yield running


def connect(bare: Floor, head: bytes) -> tuple[socket.socket, bytes]:
    host, _, port = bare.address.partition(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.sendall(head)
    return sock, sock.recv(4096)


def test_handshake_and_echo(bare: Floor) -> None:
    sock, answer = connect(bare, HEAD)
    with sock:
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # RFC 6455 §1.3's
        sock.sendall(bytes.fromhex("818537fa213d7f9f4d5158"))  # §5.7: "Hello", masked
        assert sock.recv(100) == encode_frame(1, b"Hello")


@pytest.mark.parametrize("size", [100, 1000])
def test_broadcast(bare: Floor, size: int) -> None:
    socks = [connect(bare, HEAD)[0] for _ in range(3)]
    assert bare.ask("broadcast", times=2, bytes=size) == {"sent": 6}
    for sock in socks:
        with sock:
            assert sock.recv(4096, socket.MSG_WAITALL if size > 1000 else 0).startswith(encode_frame(1, b"x" * size))


def test_event_stream(bare: Floor) -> None:
    sock, answer = connect(bare, b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n")
    with sock:
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")


def test_what_it_cannot_do_ends_it(native: None, capfd: pytest.CaptureFixture[str]) -> None:
    """A figure measured while something failed would be worth nothing."""
    with floor() as bare:
        with connect_only(bare) as sock:
            sock.sendall(HEAD[:20])
            assert sock.recv(100) == b""
        with pytest.raises(RuntimeError, match="has ended"):
            bare.answer()
    assert "a head in pieces" in capfd.readouterr().err


def connect_only(bare: Floor) -> socket.socket:
    host, _, port = bare.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=10)
