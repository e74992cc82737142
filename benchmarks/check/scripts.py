"""All fixed scripts, by name (script.py says what they are); those of a push are in push_scripts.py."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from benchmarks.check import push_scripts
from benchmarks.check.engine_world import EngineWorld
from benchmarks.check.script import REPEATS, TEXT, Script, Work, repeated
from zpush import store
from zpush._fast.frames import FrameReader, encode_frame
from zpush._fast.table import Table
from zpush._fast.wheel import Wheel
from zpush.auth import jwt
from zpush.auth.cache import TokenCache
from zpush.auth.dev import DevAuthenticator
from zpush.auth.jwk import from_secret
from zpush.delivery.base import Entry
from zpush.delivery.peer_frames import Deliver, Outcomes, decode_answer, decode_request, encode
from zpush.protocol import envelope, handshake
from zpush.protocol.message import Kind, Message, Priority
from zpush.protocol.push import parse_push
from zpush.queue.entry import to_fields
from zpush.queue.partition import read_message

PEER_LENGTH_BYTES = 4
HEAD = (
    b"GET /ws?client=client-0000000000001 HTTP/1.1\r\nHost: push.example.com\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.5\r\nOrigin: https://push.example.com\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: zpush.v1\r\n\r\n"
)
SHORT_HEAD = (  # load.c's
    b"GET /ws?client=client-0000000000001 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PEER = "127.0.0.1:50000"


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame of a client, shorter than 126 bytes."""
    key = b"\x37\xfa\x21\x3d"
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + key + bytes(b ^ key[i & 3] for i, b in enumerate(payload))


def parse_frame() -> Script:
    reader, frame = FrameReader(1 << 16, 1000), masked(1, TEXT)
    return repeated(lambda: reader.feed(frame))


def build_frame() -> Script:
    return repeated(lambda: encode_frame(1, TEXT))


def answer_head() -> Script:
    """From the bytes of a browser's request to those of the 101."""

    def operation() -> bytes:
        request = handshake.parse(HEAD, PEER)
        handshake.classify(request)
        handshake.find_token(request, b"zpush", False)
        return handshake.accept_response(request, handshake.negotiate(request))

    return repeated(operation)


# What a handshake of worker_handshake consists of, beside the engine's share and the loop's.


def parse_head() -> Script:
    return repeated(lambda: handshake.parse(SHORT_HEAD, PEER))


def classify_head() -> Script:
    request = handshake.parse(SHORT_HEAD, PEER)
    return repeated(lambda: handshake.classify(request))


def dev_identity() -> Script:
    request, authenticator = handshake.parse(SHORT_HEAD, PEER), DevAuthenticator()
    return repeated(lambda: authenticator.authenticate(request))


def accept_head() -> Script:
    request = handshake.parse(SHORT_HEAD, PEER)
    return repeated(lambda: handshake.accept_response(request, handshake.negotiate(request)))


def pack_lease() -> Script:
    """A lease's EVALSHA."""
    script, key, now_ms = store.Script("return 1"), "zpush:lease:client-0000000000001", 1_700_000_000_000
    return repeated(lambda: script.pack(key, (now_ms, "abcdefghij", "", 120_000, now_ms)))


def verify_token() -> Script:
    """A token seen first; its library's share is most of it."""
    key = b"a benchmark's key of 32 bytes or more"
    token = jwt.sign(key, "client-0000000000001", ttl_s=3600, now_s=time.time()).encode()
    verifier = jwt.JwtVerifier([from_secret(key)])
    return repeated(lambda: verifier.verify(token), 20)


def know_token() -> Script:
    """The same token once more."""
    key = b"a benchmark's key of 32 bytes or more"
    token = jwt.sign(key, "client-0000000000001", ttl_s=3600, now_s=time.time()).encode()
    cache = TokenCache(1000)
    cache.put(hashlib.sha256(token).digest(), jwt.JwtVerifier([from_secret(key)]).verify(token), 0.0)
    return repeated(lambda: cache.get(hashlib.sha256(token).digest(), 1.0))


def wrap_v1() -> Script:
    return repeated(lambda: envelope.encode(b"0199aabbccdd0011223344556677", 1, TEXT))


def parse_api_push() -> Script:
    body = b'{"to":{"client":"client-0000000000001"},"text":"%b","ttl":"60s","direct":true}' % TEXT
    return repeated(lambda: parse_push(body, 1_700_000_000_000, 1 << 16))


def stream_entry() -> Script:
    """A message into the fields of a stream and back."""
    message = Message("0199aabbccdd0011223344556677", "client-0000000000001", TEXT)

    def operation() -> Message:
        fields = [each.encode() if isinstance(each, str) else each for each in to_fields(message)]
        return read_message(fields, Priority.NORMAL, 1_700_000_000_000, "zpush.normal.0", b"1-1")

    return repeated(operation)


def peer_batch() -> Script:
    """A hundred entries to another worker and their outcomes back, per entry."""
    size = 100
    entries = [Entry(f"client-{i:013d}", "0199aabbccdd0011223344556677", TEXT, Kind.TEXT) for i in range(size)]

    def work() -> None:
        decode_request(encode(Deliver(1, entries))[PEER_LENGTH_BYTES:])
        decode_answer(encode(Outcomes(1, b"\1" * size))[PEER_LENGTH_BYTES:])

    return Script(size, lambda: work)


def table() -> Script:
    """An id bound, found and unbound."""
    ids, found = [b"client-%013d" % i for i in range(REPEATS)], Table(1 << 14, 1, 2)
    for i in range(8000):
        found.bind(1000 + i, b"other--%013d" % i)

    def work() -> None:
        for slot, each in enumerate(ids):
            found.bind(slot, each)
            found.find(each)
            found.unbind(slot)

    return Script(REPEATS, lambda: work)


def sweep() -> Script:
    """A second for 10,000 armed slots, per slot."""
    size, wheel = 10_000, Wheel(10_000)
    for slot in range(size):
        wheel.arm(slot, 30_000)
    return Script(size, lambda: lambda: wheel.sweep(1))


def with_engine(prepare: Callable[[EngineWorld], Work], size: int, operations: int, echo: bool = False) -> Script:
    world = EngineWorld(size, echo)
    return Script(operations, lambda: prepare(world))


def engine_open() -> Script:
    """From accept to the sent 101, without a registry and without parsing the head."""
    return with_engine(EngineWorld.prepare_open, 100, 100)


def engine_echo() -> Script:
    return with_engine(lambda world: world.prepare_messages(masked(1, TEXT)), 100, 100, echo=True)


def engine_broadcast() -> Script:
    return with_engine(lambda world: world.prepare_broadcasts(TEXT, 1), 200, 200)


def engine_burst() -> Script:
    """Twenty broadcasts that leave together, per message."""
    return with_engine(lambda world: world.prepare_broadcasts(TEXT, 20), 200, 20 * 200)


def engine_deliver() -> Script:
    """A batch of one message each."""
    return with_engine(lambda world: world.prepare_batch(TEXT), 200, 200)


SCRIPTS: dict[str, Callable[[], Script]] = {
    each.__name__: each
    for each in (
        parse_frame, build_frame, answer_head, parse_head, classify_head, dev_identity, accept_head, pack_lease,
        verify_token, know_token, wrap_v1, parse_api_push, stream_entry, peer_batch, table, sweep,
        engine_open, engine_echo, engine_broadcast, engine_burst, engine_deliver,
        push_scripts.read_known_request, push_scripts.read_new_request, push_scripts.write_response,
        push_scripts.message_id, push_scripts.deliver_here, push_scripts.read_records, push_scripts.route_records,
        push_scripts.tally_outcome,
    )
}  # fmt: skip
