"""The processor as a process of its own: start, reload, leave, die, and a server that is away when it starts."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis

from tests.delivery.test_tally import outcomes, taken
from tests.delivery.world import SECRET, Box
from tests.queue.backends import message
from tests.support import Valkey, alive, die_with_parent, eventually
from zpush.config import Settings, load
from zpush.delivery.processor import DRAIN_S, run_processor
from zpush.errors import ConfigError
from zpush.protocol.message import Message, Outcome, Priority
from zpush.queue.base import Producer
from zpush.queue.open import open_producer
from zpush.registry.base import Lease
from zpush.registry.redis import RedisRegistry
from zpush.scoreboard import COUNTED_OUTCOMES, PROCESSOR, Row, Scoreboard
from zpush.store import Store

NORMAL = Priority.NORMAL


class Child:
    """run_processor in a forked child, as the master does it."""

    def __init__(
        self, settings: Settings, scoreboard: Scoreboard, slot: int, reload: Callable[[], Settings] | None = None
    ) -> None:
        number = scoreboard.claim(PROCESSOR, slot)
        self.row: Row = scoreboard.rows[number]
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                die_with_parent()
                asyncio._set_running_loop(None)
                code = run_processor(settings, scoreboard, number, slot, writer, reload)
            finally:
                os._exit(code)
        os.close(writer)
        self._reader = reader
        self.exit_code: int | None = None

    async def ready(self) -> None:
        assert await asyncio.wait_for(asyncio.to_thread(os.read, self._reader, 1), 30) == b"1"
        os.close(self._reader)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def end(self, number: int) -> int:
        if self.exit_code is None:
            self.signal(number)
            _, status = await asyncio.wait_for(asyncio.to_thread(os.waitpid, self.pid, 0), 30)
            self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code


class Site:
    """A box with clients, a registry that knows them, a sender, and processors to come."""

    def __init__(self, valkey: Valkey) -> None:
        self.valkey = valkey
        self.scoreboard = Scoreboard()
        overrides = [
            f"registry.url={valkey.url}",
            f"queue.url={valkey.url}",
            f"peers.secret={SECRET.decode().replace(' ', '-')}",
        ]
        self.settings = load(None, {}, [*overrides, "auth.mode=dev", "processor.batch=50", "queue.partitions=4"])
        self.clients = [f"c{i}" for i in range(20)]
        self.box = Box("one", *self.clients, secret=self.settings.peers.secret.encode())
        self.registry = RedisRegistry(Store(valkey.url, name="test-registry"), self.settings.registry)
        self.producer: Producer = open_producer(self.settings.queue, valkey.url)
        self.children: list[Child] = []

    async def open(self) -> None:
        await self.box.listen()
        await self.registry.start()
        await self.producer.start()
        await self.announce()

    async def announce(self) -> None:
        await self.registry.announce(self.box.node)
        for client in self.clients:
            assert await self.registry.register_late(Lease(client, "one", 1)) is None

    def spawn(self, reload: Callable[[], Settings] | None = None) -> Child:
        child = Child(self.settings, self.scoreboard, len(self.children), reload)
        self.children.append(child)
        return child

    async def push(self, *messages: Message) -> None:
        assert await self.producer.publish(messages) == [None] * len(messages)

    def total(self, name: str) -> int:
        return self.scoreboard.total(name)

    async def close(self) -> None:
        for child in self.children:
            if child.exit_code is None:
                await child.end(signal.SIGKILL)
        await self.producer.stop()
        await self.registry.stop()
        await self.box.die()


@pytest.fixture
async def site(valkey: Valkey) -> AsyncIterator[Site]:
    made = Site(valkey)
    await made.open()
    yield made
    await made.close()


async def test_it_serves_beats_and_leaves(site: Site) -> None:
    child = site.spawn()
    await child.ready()
    assert child.row.get("ready") == 1
    sent = [message(site.clients[i % 20]) for i in range(200)]
    await site.push(*sent)
    await eventually(lambda: child.row.get("messages_delivered_normal") == 200)
    assert sorted(i for _, i in site.box.table.got) == sorted(m.id for m in sent)
    await eventually(lambda: child.row.get("queue_up") == child.row.get("registry_up") == 1)
    await eventually(lambda: time.monotonic_ns() // 1_000_000 - child.row.get("heartbeat_ms") < 1500, "a heartbeat")
    assert await child.end(signal.SIGTERM) == 0
    assert child.row.get("ready") == 0
    with redis.Redis.from_url(site.valkey.url) as valkey:
        assert valkey.keys("zpush.receipts") == [], "nobody has asked for them"


async def test_hup_takes_new_settings_unless_they_are_bad(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def reload() -> Settings:
        if not log.exists():
            log.touch()
            raise ConfigError("zpush.toml:1: not like this")
        settings = site.settings
        impatient = dataclasses.replace(settings.processor, max_age_s=-1.0)  # whatever comes is too late
        return dataclasses.replace(settings, processor=impatient, log=dataclasses.replace(settings.log, file=str(log)))

    child = site.spawn(reload)
    await child.ready()
    child.signal(signal.SIGHUP)
    await eventually(log.exists, "it has read the bad ones")
    await site.push(message("c1"))
    await eventually(lambda: child.row.get("messages_delivered_normal") == 1, "and goes on as it was")
    child.signal(signal.SIGHUP)
    await eventually(lambda: "reloaded" in log.read_text(), "the new log is in use")
    await site.push(message("c1"))
    await eventually(lambda: child.row.get("messages_expired_normal") == 1, "and so is the new age")
    assert await child.end(signal.SIGTERM) == 0


async def test_term_finishes_what_is_under_way_and_another_takes_over_at_once(site: Site) -> None:
    site.box.table.answers = dict.fromkeys(site.clients, Outcome.PENDING)
    child = site.spawn()
    await child.ready()
    await site.push(*(message(c) for c in site.clients))
    await eventually(lambda: len(site.box.table.waiting) == 20)
    child.signal(signal.SIGTERM)
    await eventually(lambda: child.row.get("ready") == 0)
    site.box.table.answers = {}
    site.box.table.settle()
    await eventually(lambda: child.row.get("messages_delivered_normal") == 20)
    assert await child.end(signal.SIGTERM) == 0
    with redis.Redis.from_url(site.valkey.url) as valkey:
        assert valkey.keys("*:reader") == [], "the leases were given up, not left to run out"
    second = site.spawn()
    await second.ready()
    await site.push(message("c1"))
    await eventually(lambda: second.row.get("messages_delivered_normal") == 1)
    assert second.row.get("redelivered_normal") == 0


async def test_a_killed_processors_work_is_done_by_another_and_all_is_counted(site: Site) -> None:
    site.box.table.answers = dict.fromkeys(site.clients, Outcome.PENDING)
    first, second = site.spawn(), site.spawn()
    await first.ready()
    await second.ready()
    sent = [message(site.clients[i % 20]) for i in range(100)]
    await site.push(*sent)
    await eventually(lambda: len(site.box.table.waiting) >= 20)
    site.box.table.answers = {}
    await first.end(signal.SIGKILL)
    site.box.table.settle()
    await eventually(lambda: {i for _, i in site.box.table.got} == {m.id for m in sent}, "everything arrives", 20)
    await eventually(lambda: finished(site), "everything is finished", 20)
    done = sum(site.total(f"messages_{o}_normal") for o in COUNTED_OUTCOMES)
    assert done == site.total("taken_normal") + site.total("redelivered_normal") >= 100
    assert outcomes(second.row, NORMAL) == taken(second.row, NORMAL)
    assert alive(second.pid)


async def test_a_stopped_processor_finishes_nothing_when_it_wakes_up(site: Site) -> None:
    """SIGSTOP past its leases: another one has its streams, and the server refuses what it still believes."""
    site.box.table.answers = dict.fromkeys(site.clients, Outcome.PENDING)
    first = site.spawn()
    await first.ready()
    await site.push(*(message(c) for c in site.clients))
    await eventually(lambda: len(site.box.table.waiting) == 20)
    first.signal(signal.SIGSTOP)
    site.box.table.answers = {}
    second = site.spawn()
    await second.ready()
    await eventually(lambda: second.row.get("redelivered_normal") == 20, "taken over", 20)
    sent = [message(c) for c in site.clients]
    await site.push(*sent)
    site.box.table.settle()  # the first one's outcomes wait in its sockets
    first.signal(signal.SIGCONT)
    await eventually(lambda: {i for _, i in site.box.table.got} >= {m.id for m in sent}, "nothing is lost", 20)
    await eventually(lambda: finished(site), "everything is finished", 20)
    for row in (first.row, second.row):
        assert outcomes(row, NORMAL) == taken(row, NORMAL)
    await site.push(message("c1"))
    await eventually(lambda: finished(site), "both go on")


async def finished(site: Site) -> bool:
    return (await site.producer.lag())[NORMAL].messages == 0


async def test_servers_that_are_away_at_start(site: Site) -> None:
    site.valkey.kill()
    child = site.spawn()
    await child.ready()
    assert child.row.get("queue_up") == child.row.get("registry_up") == 0
    site.valkey.restart()
    await eventually(lambda: site.registry.up and site.producer.up)
    await site.announce()
    await site.push(message("c1"))
    await eventually(lambda: child.row.get("messages_delivered_normal") == 1)
    await eventually(lambda: child.row.get("queue_up") == child.row.get("registry_up") == 1)
    site.valkey.kill()
    await eventually(lambda: child.row.get("queue_up") == 0)
    assert await child.end(signal.SIGTERM) == 0, "and it can leave without them"


async def test_quick_shutdown_waits_for_nothing(site: Site) -> None:
    site.box.table.answers = dict.fromkeys(site.clients, Outcome.PENDING)
    child = site.spawn()
    await child.ready()
    await site.push(message("c1"))
    await eventually(lambda: site.box.table.waiting)
    begin_s = time.monotonic()
    assert await child.end(signal.SIGINT) == 0
    assert time.monotonic() - begin_s < DRAIN_S
