"""What the registry costs: CPU time per command, here and in Valkey, and Valkey's memory.

Rules. Commands are given as those who use the registry give them: look-ups in batches as a router's, registrations as
those of one turn of a worker's loop, renewals as a second's. What is beside them is the least that Python can do, and
what redis-py would take, on the same server in the same run. Values are what hiredis gives; a router asks for leases,
which have to be made of them, for client ids, of which keys have to be made. The least does neither, and both are held
against it.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeVar

import uvloop
from redis.asyncio import Redis

from benchmarks.figures import Figure, Progress, alternate, cpu_figure, ratio_figure
from benchmarks.process import Cpu, Meter
from benchmarks.valkey import Valkey, valkey
from zpush.config.settings import Registry as Settings
from zpush.registry.base import Lease
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

LEASES = 100_000
BATCHES = (1, 100, 1000)
LOOK_UPS = {1: 5_000, 100: 100_000, 1000: 100_000}  # a round, by batch
PAIRS = 5
RATIO = 1 / 0.7
TURN = 50  # handshakes that one turn of a worker's loop finds where 15,000 come at once
LEASE_BYTES = 200
HANDSHAKE_US = 8.0
RENEWALS_SHARE = 1.0  # per cent of a core
NODE = "k3v9x0q2ab"
EPOCH = 1_700_000_000_000
SETTINGS = Settings()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    runner: asyncio.Runner
    server: Valkey
    store: Store
    registry: RedisRegistry
    progress: Progress

    def measure(self, work: Callable[[], Awaitable[object]], operations: int) -> Cpu:
        """This process's CPU time per operation."""
        began = own_cpu()
        self.runner.run(_awaited(work()))
        return _since(began).per(operations)

    def both(self, work: Callable[[], Awaitable[object]], operations: int) -> tuple[Cpu, Cpu]:
        """Ours, and Valkey's."""
        meter = Meter({"valkey": self.server.pid})
        ours = self.measure(work, operations)
        return ours, meter.spent()["valkey"].per(operations)


def registry(progress: Progress) -> Iterator[Figure]:
    """CPU time per lease looked up, registered, renewed and removed, here and in Valkey; Valkey's memory per lease"""
    with valkey() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        store = Store(server.url, name="benchmark")
        world = World(runner, server, store, RedisRegistry(store, SETTINGS), progress)
        runner.run(world.registry.start())
        try:
            yield from _memory(world)
            yield from _look_ups(world)
            yield from _writes(world)
        finally:
            runner.run(world.registry.stop())


def leases(count: int, user: str = "", shape: str = "client-{:013d}") -> list[Lease]:
    """user: a pattern, or "" for leases without a user."""
    return [Lease(shape.format(i), NODE, EPOCH + i, user.format(i)) for i in range(count)]


def _memory(world: World) -> Iterator[Figure]:
    shapes = {
        "a lease, client id of 20 bytes": leases(LEASES),
        "the same with a user id of 8, the index of users included": leases(LEASES, "u{:07d}"),
        "a lease, client id of 36 bytes (a UUID)": leases(LEASES, shape="{:036d}"),
    }
    for name, found in shapes.items():
        world.progress.say(f"memory of {name}")
        world.server.empty()
        before = world.server.used_bytes()
        world.runner.run(all_of(world.registry.register_many, in_parts(found, 1000)))
        world.server.must_hold(LEASES)
        target = LEASE_BYTES if not found[0].user_id else None
        yield Figure(name, (world.server.used_bytes() - before) / LEASES, "B", target=target)


def _look_ups(world: World) -> Iterator[Figure]:
    """A batch after the other. The floor asks for the same keys and makes nothing of the values."""
    world.server.empty()
    written = leases(LEASES)
    world.runner.run(all_of(world.registry.register_many, in_parts(written, 1000)))
    ids = [lease.client_id for lease in written]
    keys = [f"{SETTINGS.prefix}:lease:{client_id}" for client_id in ids]
    for size in BATCHES:
        many = LOOK_UPS[size]
        key_parts, id_parts = in_parts(keys[:many], size), in_parts(ids[:many], size)
        few = in_parts(keys[: LOOK_UPS[1]], size)

        bare = partial(_bare, world, key_parts)
        values = partial(world.measure, partial(all_of, world.store.mget, key_parts), many)
        found = partial(world.measure, partial(all_of, world.registry.look_up, id_parts), many)
        rounds = alternate(values, bare, PAIRS, world.progress)
        yield ratio_figure(f"values in batches of {size:,}, beside hiredis alone", *rounds, RATIO if size > 1 else None)
        rounds = alternate(found, bare, PAIRS, world.progress)
        yield ratio_figure(f"leases in batches of {size:,}, beside the same", *rounds, RATIO if size > 1 else None)
        yield Figure("the same, by a core of ours", 1 / median(each.total_s for each in rounds[0]), "/s")
        redis_py = world.measure(partial(_redis_py, world.server.path, few), LOOK_UPS[1])
        yield cpu_figure(f"values by redis-py's pipeline of {size:,}", [redis_py])
        _, theirs = world.both(partial(all_of, world.registry.look_up, id_parts), many)
        yield cpu_figure("the same in Valkey", [theirs])


def _bare(world: World, parts: Sequence[Sequence[str]]) -> Cpu:
    began = own_cpu()
    for keys in parts:
        world.server.bare.call("MGET", *keys)
    return _since(began).per(sum(map(len, parts)))


async def _redis_py(path: str, parts: Sequence[Sequence[str]]) -> None:
    client = Redis(unix_socket_path=path)
    for keys in parts:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        await pipeline.execute()
    await client.aclose()


def _writes(world: World) -> Iterator[Figure]:
    """Registrations and removals of all leases, so once; renewals in rounds."""
    second = round(LEASES / (SETTINGS.lease_ttl_s / 2))  # leases that a worker of this size renews each second
    for user, what in (("", ""), ("u{:07d}", ", with a user")):
        world.server.empty()
        found = leases(LEASES, user)
        turns, seconds = in_parts(found, TURN), in_parts(found, second)

        registered = world.both(partial(all_of, world.registry.register_many, turns), LEASES)
        world.server.must_hold(LEASES)
        yield from _figures(f"registration, {TURN} in a turn{what}", [registered], HANDSHAKE_US)
        renew = partial(all_of, world.registry.renew, seconds)
        rounds = [world.both(renew, LEASES) for _ in world.progress.rounds(PAIRS)]
        yield from _figures(f"renewal, {second} at once{what}", rounds)
        share = median(ours.total_s for ours, _ in rounds) * second * 100
        yield Figure(f"renewals of {LEASES:,} clients{what}, of a core", share, "%", target=RENEWALS_SHARE)
        removed = world.both(partial(all_of, world.registry.remove_many, turns), LEASES)
        yield from _figures(f"removal, {TURN} in a turn{what}", [removed])


def in_parts(whole: Sequence[T], size: int) -> list[Sequence[T]]:
    return [whole[begin : begin + size] for begin in range(0, len(whole), size)]


async def all_of(call: Callable[[Sequence[T]], Awaitable[object]], parts: Sequence[Sequence[T]]) -> None:
    for part in parts:
        await call(part)


def _figures(name: str, rounds: Sequence[tuple[Cpu, Cpu]], target_us: float | None = None) -> Iterator[Figure]:
    yield cpu_figure(name, [ours for ours, _ in rounds], target_us)
    yield cpu_figure("the same in Valkey", [theirs for _, theirs in rounds])


def own_cpu() -> Cpu:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Cpu(used.ru_utime, used.ru_stime)


def _since(began: Cpu) -> Cpu:
    now = own_cpu()
    return Cpu(now.user_s - began.user_s, now.system_s - began.system_s)


async def _awaited(work: Awaitable[object]) -> None:
    await work
