"""Heads, tokens and messages: what is done once per handshake or per push."""

from __future__ import annotations

import hashlib
import time

import jwt as pyjwt
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.check.scripts import HEAD
from zpush.auth import jwt
from zpush.auth.base import Identity
from zpush.auth.cache import TokenCache
from zpush.auth.jwk import from_secret
from zpush.protocol import envelope, handshake
from zpush.protocol.message import Message, Priority, from_headers, new_id, to_headers
from zpush.protocol.push import parse_batch, parse_push
from zpush.queue.entry import to_fields
from zpush.queue.partition import read_message

KEY = b"a benchmark's key of 32 bytes or more"
MESSAGE = Message(new_id(), "client-0000000000001", b"x" * 100)
PUSH = b'{"to":{"client":"client-0000000000001"},"text":"%b","direct":true}' % (b"x" * 100)


def test_head(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "opening handshake, a browser's head"
    request = benchmark(handshake.parse, HEAD, "127.0.0.1:50000")
    assert request.path == "/ws"


def test_head_to_answer(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "opening handshake, a browser's head"

    def answer() -> bytes:
        request = handshake.parse(HEAD, "127.0.0.1:50000")
        handshake.classify(request)
        return handshake.accept_response(request, handshake.negotiate(request))

    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in benchmark(answer)


def _token() -> bytes:
    return jwt.sign(KEY, "client-0000000000001", ttl_s=3600).encode()


def test_token(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a token, HS256"
    verifier = jwt.JwtVerifier([from_secret(KEY)])
    assert benchmark(verifier.verify, _token()).client_id == "client-0000000000001"


def test_token_pyjwt(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a token, HS256"
    claims = benchmark(pyjwt.decode, _token(), KEY, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    assert claims["sub"] == "client-0000000000001"


def test_token_seen_before(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a token, HS256"
    cache, token = TokenCache(100_000), _token()
    cache.put(hashlib.sha256(token).digest(), Identity("client-0000000000001"), time.time())
    assert benchmark(lambda: cache.get(hashlib.sha256(token).digest(), time.time())) is not None


def test_parse_push(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a push as JSON"
    assert benchmark(parse_push, PUSH, 1_700_000_000_000, 65_536).direct


def test_parse_batch(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "100 pushes as NDJSON"
    body = (PUSH + b"\n") * 100
    assert len(benchmark(lambda: list(parse_batch(body, 1_700_000_000_000, 10_000, 65_536)))[0]) == 100


def test_headers(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a message there and back"

    def both() -> Message:
        headers = to_headers(MESSAGE)
        return from_headers(MESSAGE.key.encode(), MESSAGE.payload, headers, Priority.NORMAL, 0, "")

    assert benchmark(both) == MESSAGE


def test_stream_entry(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a message there and back"
    fields = [each.encode() if isinstance(each, str) else each for each in to_fields(MESSAGE)]

    def both() -> Message:
        to_fields(MESSAGE)
        return read_message(fields, Priority.NORMAL, 0, "zpush.normal.0", b"1-1")

    assert benchmark(both) == MESSAGE


def test_envelope(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "zpush.v1 around 100 B"
    assert benchmark(envelope.encode, MESSAGE.id.encode(), 1, MESSAGE.payload).startswith(b'{"id"')
