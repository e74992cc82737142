"""What one server of the registry carries: its share of a core and its memory, at the size of a shard.

Rules. Clients have a user each, get a message a minute, and connect anew at `connections.max_age`. So a shard's second
is so many renewals, registrations, removals and look-ups, and it gets them in tenths, as from many workers. A
repair writes all leases again, each worker of 100,000 clients at `registry.repair_rate`. Costs are Valkey's CPU time
with MEASURED clients in it; those of a shard of another size are that times its clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import uvloop

from benchmarks.figures import Figure, Progress
from benchmarks.parts.registry import EPOCH, NODE, all_of, in_parts
from benchmarks.process import Cpu, Meter
from benchmarks.valkey import Valkey, valkey
from zpush.config.settings import Connections
from zpush.config.settings import Registry as Settings
from zpush.registry.base import Lease
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

ROWS = ((1, 1), (10, 10), (100, 100))  # million clients, shards
MEASURED = 500_000
WORKER = 100_000  # clients
MESSAGE_EACH_S = 60
TICKS, TICK_S = 50, 0.1
AT_ONCE = 1000
MOST = 100.0  # per cent of a core; it has but one for commands
SETTINGS = Settings()


def capacity(progress: Progress) -> Iterator[Figure]:
    """A shard for 1, 10 and 100 million clients: memory, and Valkey's share of a core"""
    with valkey() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        registry = RedisRegistry(Store(server.url, name="benchmark"), SETTINGS)
        runner.run(registry.start())
        empty = server.used_bytes()
        progress.say(f"filling a shard of {MEASURED:,}")
        written = _spent(server, runner, partial(fill, registry, MEASURED)).total_s / MEASURED
        server.must_hold(MEASURED)
        progress.say(f"five seconds of a shard of {MEASURED:,}")
        day = _spent(server, runner, partial(live, registry, MEASURED)).total_s / (TICKS * TICK_S) / MEASURED
        bytes_each = (server.used_bytes() - empty) / MEASURED
        yield Figure("a lease and its user", bytes_each, "B")
        yield Figure("the same, written", written * 1e6, "µs")
        yield Figure("a client, all day", day * 1e6, "µs/s")
        for millions, shards in ROWS:
            size = millions * 1_000_000 // shards
            name = f"{millions} M on {shards}, {size / 1e6:.2f} M each"
            yield Figure(f"{name}: memory", bytes_each * size / 1e9, "GB")
            yield Figure(f"{name}: all day, of a core", day * size * 100, "%", target=MOST)
            repair = written * SETTINGS.repair_rate * size / WORKER
            yield Figure(f"{name}: while all are written again", repair * 100, "%", target=MOST)
        runner.run(registry.stop())


def _spent(server: Valkey, runner: asyncio.Runner, work: partial[Coroutine[Any, Any, None]]) -> Cpu:
    meter = Meter({"valkey": server.pid})
    runner.run(work())
    return meter.spent()["valkey"]


def leases(numbers: range) -> list[Lease]:
    return [Lease(f"client-{i:013d}", NODE, EPOCH + i, f"u{i:07d}") for i in numbers]


async def fill(registry: RedisRegistry, size: int) -> None:
    for at in range(0, size, AT_ONCE):
        await registry.register_many(leases(range(at, min(size, at + AT_ONCE))))


async def live(registry: RedisRegistry, size: int) -> None:
    """TICKS tenths of a second of that many clients."""
    renewed = round(size / (SETTINGS.lease_ttl_s / 2) * TICK_S)
    moved = round(size / Connections().max_age_s * TICK_S)
    told = round(size / MESSAGE_EACH_S * TICK_S)
    began_s = time.monotonic()
    for tick in range(TICKS):
        await all_of(registry.renew, in_parts(_some(size, tick, renewed), AT_ONCE))
        others = _some(size, tick + TICKS, moved)
        await all_of(registry.remove_many, in_parts(others, AT_ONCE))
        await all_of(registry.register_many, in_parts(others, AT_ONCE))
        ids = [lease.client_id for lease in _some(size, 7 * tick, told)]
        await all_of(registry.look_up, in_parts(ids, AT_ONCE))
        await asyncio.sleep(max(0.0, began_s + (tick + 1) * TICK_S - time.monotonic()))


def _some(size: int, tick: int, count: int) -> Sequence[Lease]:
    """Other ones at each tick, and none twice in a tick."""
    begin = tick * count % (size - count)
    return leases(range(begin, begin + count))
