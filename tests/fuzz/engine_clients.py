"""A client of the engine's: a raw TCP socket that keeps what it got, and reads it as its protocol says."""

from __future__ import annotations

import binascii
import re
import socket
import struct
from collections.abc import Iterator

from zpush.client.event_parser import EventParser
from zpush.protocol import envelope

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NUMBER = re.compile(rb"m#(\d+):")
RST = struct.pack("ii", 1, 0)
MOST_BYTES = 1 << 24


class Client:
    """whole: it said nothing yet but whole frames, so that its next ping must be answered."""

    def __init__(self, address: tuple[str, int], buffer_bytes: int) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.sock.connect(address)
        self.sock.setblocking(False)
        self.name = "{}:{}".format(*self.sock.getsockname())
        self.got = bytearray()
        self.said = bytearray()  # what the kernel did not take yet
        self.whole = True
        self.finished = False
        self.gone = False

    def say(self, data: bytes) -> None:
        self.said += data
        self.push()

    def push(self) -> bool:
        """True where some of what is to be said left."""
        if self.gone or self.finished or not self.said:
            return False
        try:
            sent = self.sock.send(self.said)
        except BlockingIOError:
            return False
        except OSError:  # the engine closed with RST
            self.said.clear()
            return False
        del self.said[:sent]
        return True

    def read(self, size: int) -> bool:
        """True where something came."""
        if self.gone:
            return False
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.leave()
            return True
        self.got += data
        return True

    def finish(self) -> None:
        """FIN, and goes on reading."""
        if not self.gone and not self.finished:
            self.finished = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the engine was faster

    def leave(self) -> None:
        if not self.gone:
            self.gone = True
            self.sock.close()

    def reset(self) -> None:
        """RST; also what ends a client at the end of a script, so that no port waits in TIME_WAIT."""
        if not self.gone:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            self.leave()

    # ---- what it got

    def answered(self) -> int:
        """The status of the HTTP answer, 0 before it is there. Behind a refusal comes nothing."""
        head, blank, rest = bytes(self.got).partition(b"\r\n\r\n")
        assert b"HTTP/1.1 ".startswith(head[:9]) or head.startswith(b"HTTP/1.1 "), f"no answer: {head[:80]!r}"
        if not blank:
            return 0
        status = int(head[9:12])
        assert status in (101, 200) or not rest, f"behind a {status}: {rest[:80]!r}"
        return status

    def messages(self) -> list[tuple[int, bytes]]:
        """(number, payload) of each push that came whole, in order."""
        status = self.answered()
        rest = bytes(self.got).partition(b"\r\n\r\n")[2]
        if status == 101:
            payloads = [payload for opcode, payload in frames(rest) if opcode in (TEXT, BINARY)]
        elif status == 200:
            payloads = [event.data.encode() for event in EventParser(MOST_BYTES).feed(rest)]
        else:
            payloads = []
        pushes = [(NUMBER.match(push), push) for push in map(_payload, payloads)]
        return [(int(number[1]), push) for number, push in pushes if number]

    def pongs(self, payload: bytes) -> int:
        rest = bytes(self.got).partition(b"\r\n\r\n")[2]
        return sum(each == (PONG, payload) for each in frames(rest))


def _payload(message: bytes) -> bytes:
    """What was pushed: within zpush.v1's envelope, in base64 (a stream's binary), a JSON string, or as it is."""
    if message.startswith(b'{"id":'):
        push = envelope.decode(message)
        assert isinstance(push, envelope.Push)
        return push.data if isinstance(push.data, bytes) else str(push.data).encode()
    try:
        message = binascii.a2b_base64(message, strict_mode=True)
    except binascii.Error:
        pass
    return message.strip(b'"')


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The server's frames; AssertionError for any that RFC 6455 forbids a server."""
    at = 0
    closed = False
    while len(data) - at >= 2:
        assert not closed, "a frame behind the close frame"
        first, size = data[at], data[at + 1]
        assert first & 0xF0 == 0x80, f"first byte {first:#x}"
        assert size < 128, "a server masks"
        header = 2 if size < 126 else 4 if size == 126 else 10
        if len(data) - at < header:
            return
        if header > 2:
            size = int.from_bytes(data[at + 2 : at + header], "big")
            assert size >= (126 if header == 4 else 65_536), "length not in its shortest form"
        opcode = first & 0x0F
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG)
        assert opcode < 8 or size < 126, "a long control frame"
        payload = data[at + header : at + header + size]
        if len(payload) < size:
            return
        if opcode == TEXT:
            payload.decode()
        closed = opcode == CLOSE
        yield opcode, payload
        at += header + size
