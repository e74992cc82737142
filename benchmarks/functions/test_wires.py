"""What goes between processes: peers' batches, and commands to the registry."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hiredis import pack_command
from pytest_benchmark.fixture import BenchmarkFixture

from zpush.delivery.base import Entry
from zpush.delivery.peer_frames import Deliver, decode_request, encode
from zpush.protocol.message import Kind, new_id
from zpush.store.pipeline import Pipeline

BATCH = 100
LENGTH_BYTES = 4
ENTRIES = [Entry(f"client-{i:013d}", new_id(), b"x" * 100, Kind.TEXT) for i in range(BATCH)]


def test_batch(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "100 entries to a peer, there and back"
    request = benchmark(lambda: decode_request(encode(Deliver(1, ENTRIES))[LENGTH_BYTES:]))
    assert request == Deliver(1, ENTRIES)


def test_batch_as_json(benchmark: BenchmarkFixture) -> None:
    """The standard library's; bytes have to become text first."""
    benchmark.group = "100 entries to a peer, there and back"

    def both() -> list[list[object]]:
        rows = [[e.client_id, e.id, base64.b64encode(e.payload).decode(), e.kind] for e in ENTRIES]
        decoded: list[list[object]] = json.loads(json.dumps(rows))
        return decoded

    assert len(benchmark(both)) == BATCH


class Wire(asyncio.Transport):
    """Takes writes as a socket would; what is answered, the benchmark says."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def abort(self) -> None:
        return


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_pipeline(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """A hundred commands of one turn out, their replies back to who waits."""
    benchmark.group = "100 registry commands"

    async def connect() -> tuple[Pipeline, Wire]:
        pipeline, wire = Pipeline("nowhere", 3600.0), Wire()
        pipeline.connection_made(wire)
        return pipeline, wire

    async def turn() -> list[bytes]:
        futures = [pipeline.call(("GET", f"zpush:lease:client-{i:013d}")) for i in range(BATCH)]
        await asyncio.sleep(0)
        pipeline.data_received(b"$40\r\n%b\r\n" % (b"1 1700000000000 abcdefghij ".ljust(40, b"u")) * BATCH)
        return [cast(bytes, await future) for future in futures]

    pipeline, wire = loop.run_until_complete(connect())
    assert len(benchmark(lambda: loop.run_until_complete(turn()))) == BATCH
    assert wire.written > 0
    pipeline.abort("done")


def test_pack(benchmark: BenchmarkFixture) -> None:
    """The share of packing them."""
    benchmark.group = "100 registry commands"
    commands: list[tuple[Any, ...]] = [("GET", f"zpush:lease:client-{i:013d}") for i in range(BATCH)]
    assert len(benchmark(lambda: [pack_command(command) for command in commands])) == BATCH
