"""The message processor: from the queue to the workers, and every outcome counted.

Rules. Priorities are drawn by schedule.py. What is under way is bounded per priority, so that a low one that
is stuck holds up no high one. Parked jobs do not count in that, but while the registry is away or the router's lot is
half full: then the queue is a better place to wait. A record is finished in the queue when the last of its outcomes is
known, never before. A lost partition's jobs are forgotten where they are not with an owner yet: whoever holds the
partition now has read them again. A registry or queue that is away stops nothing here but the flow: the process starts,
says so, and goes on when they are back.

TERM: no more is taken, what is under way has 5 s, the partitions are given up. INT and QUIT: at once.
HUP: the log is opened anew; the settings that may change are used for what is taken from now on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import uvloop

from zpush import log
from zpush._fast.record import Record
from zpush._fast.work import UnderWay
from zpush.config import Settings
from zpush.config.secrets import peers_secret, queue_url
from zpush.config.settings import Processor as ProcessorSettings
from zpush.delivery.fan_out import FanOut
from zpush.delivery.peers import Peers
from zpush.delivery.presence import open_presence
from zpush.delivery.receipts import Receipts
from zpush.delivery.router import Router
from zpush.delivery.schedule import Schedule
from zpush.delivery.tally import Tally
from zpush.errors import ConfigError, StartupError
from zpush.log import event, set_process
from zpush.protocol.message import Outcome, Priority, Target
from zpush.queue.base import Consumer
from zpush.queue.open import open_consumer, open_receipt_writer
from zpush.registry.open import open_registry
from zpush.scoreboard import Row, Scoreboard

WINDOW_BATCHES = 10  # under way per priority; slow consumers keep theirs for up to connections.unsent_age
WINDOW_BYTES = 64 * 1024 * 1024  # the same in payloads
LOW_SLICE = 50  # records of a lower priority at a time: with what follows half a millisecond, then high ones are seen
TICK_S = 0.5
DRAIN_S = 5.0
PEERS_SLACK_S = 5.0
GC_THRESHOLD = 50_000  # records make no cycles; by default the collector would look at those under way all the time
_log = logging.getLogger("zpush.processor")


class Processor:
    """The loop between a consumer and a router. All of them are the caller's to start and stop."""

    def __init__(
        self,
        consumer: Consumer,
        router: Router,
        fan_out: FanOut,
        tally: Tally,
        priorities: Sequence[Priority],
        settings: ProcessorSettings,
        receipts: Receipts | None = None,
    ) -> None:
        """receipts: None where none are wanted."""
        self._loop = asyncio.get_running_loop()
        self._consumer = consumer
        self._router = router
        self._fan_out = fan_out
        self._priorities = sorted(priorities)
        self.use(settings)
        self._under_way = UnderWay(
            tally.outcomes, receipts, Outcome.OFFLINE, Outcome.ELSEWHERE, Outcome.EXPIRED, self._ended
        )
        self._progress = asyncio.Event()  # something has been settled
        consumer.on_revoked(self._revoked)

    @property
    def in_flight(self) -> int:
        return len(self._under_way)

    def use(self, settings: ProcessorSettings) -> None:
        """For what is taken from now on; the priorities stay."""
        self._schedule = Schedule(self._priorities, settings.low_floor)
        self._batch = settings.batch
        self._max_age_ms = int(settings.max_age_s * 1000)
        self._window = WINDOW_BATCHES * settings.batch

    async def run(self) -> None:
        """Takes and routes until it is cancelled; what is under way then goes on."""
        while True:
            records = self._schedule.draw(self._batch, self._take)
            if records:
                self._begin(records)
                await asyncio.sleep(0)
            else:
                await self._wait()

    def look_again(self) -> None:
        """Room may have come without an outcome: jobs that were parked do not count."""
        self._progress.set()

    async def drain(self, timeout_s: float) -> bool:
        """Waits for what is under way. False where something is left after timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.in_flight:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    # Taking

    def _take(self, priority: Priority, limit: int) -> list[Record]:
        if priority is not self._priorities[0]:
            limit = min(limit, LOW_SLICE)
        limit = min(limit, self._room(priority))
        return self._consumer.take(priority, limit) if limit > 0 else []

    def _room(self, priority: Priority) -> int:
        if self._under_way.payload_bytes(priority) >= WINDOW_BYTES:
            return 0
        parked = 0 if self._router.holds_back else self._router.parked
        return self._window + parked - self._under_way.count(priority)

    async def _wait(self) -> None:
        """Until a priority that has room gets something, or one that has none gets room."""
        open_ones = [p for p in self._priorities if self._room(p) > 0]
        if len(open_ones) == len(self._priorities):
            await self._consumer.wait(open_ones)
            return
        self._progress.clear()
        waits = [asyncio.ensure_future(self._consumer.wait(open_ones)), asyncio.ensure_future(self._progress.wait())]
        try:
            finished, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for wait in finished:
            wait.result()

    # Routing

    def _begin(self, records: Sequence[Record]) -> None:
        jobs, others = self._under_way.begin(records, self._max_age_ms)
        for work in others:
            if work.message.target is Target.USER:
                self._fan_out.user(work)
            else:
                self._fan_out.all(work)
        self._router.route(jobs)

    # Settling

    def _ended(self) -> None:
        """Records of one turn are finished together."""
        self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        self._consumer.finish(self._under_way.collect())
        self._progress.set()

    def _revoked(self, priority: Priority, partition: int) -> None:
        works = self._under_way.lose(priority, partition)
        self._router.forget([job for work in works for job in work.shares or (work,)])
        for work in works:
            work.shares = ()
        self._progress.set()
        lost = len(works)
        event(_log, "partition lost", logging.DEBUG, priority=priority.label, partition=partition, under_way=lost)


class Process:
    """A processor with all that it stands on, from start to exit."""

    def __init__(self, settings: Settings, row: Row, slot: int, load: Callable[[], Settings]) -> None:
        node_id, node_ttl_s, retry_s = secrets.token_hex(5), settings.registry.node_ttl_s, settings.processor.retry_s
        priorities = [Priority.of(label) for label in settings.processor.priorities]
        self._row = row
        self._load = load
        self._leave = asyncio.Event()
        self._quick = False
        self._registry = open_registry(settings, f"zpush-processor-{slot}")
        self._peers = Peers(peers_secret(settings), node_id, 2 * settings.connections.unsent_age_s + PEERS_SLACK_S)
        self._presence = open_presence(settings, row)
        on_dead = self._presence.expired if self._presence is not None else None
        self._router = Router(
            self._registry,
            self._peers,
            None,
            node_id,
            settings.peers.region,
            retry_s,
            node_ttl_s,
            on_dead=on_dead,
            max_age_s=settings.processor.max_age_s,
        )
        self._fan_out = FanOut(self._registry, self._peers, self._router, settings.peers.region, retry_s)
        tally = Tally(row)
        self._consumer = open_consumer(
            settings.queue, queue_url(settings), priorities, settings.processor.batch, tally.dead
        )
        self._receipts = _receipts(settings, row)
        self._processor = Processor(
            self._consumer, self._router, self._fan_out, tally, priorities, settings.processor, self._receipts
        )

    async def run(self, ready_fd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave.set)
        for quick in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(quick, self._leave_quickly)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._tick()
        if self._presence is not None:
            self._presence.start()
        receipts = () if self._receipts is None else (self._receipts.start(),)
        await asyncio.gather(self._registry.start(), self._consumer.start(), *receipts)
        self._report()
        self._row.set("ready", 1)
        os.write(ready_fd, b"1")
        event(_log, "processor is serving", registry=self._registry.reason or "up", queue=self._consumer.reason or "up")
        await self._serve()
        self._row.set("ready", 0)
        drained = not self._quick and await self._processor.drain(DRAIN_S)
        await self._stop()
        event(_log, "processor has left", drained=drained)

    async def _serve(self) -> None:
        """Until a signal; a failure of the loop itself ends the process, and the master starts another."""
        leave = asyncio.ensure_future(self._leave.wait())
        work = asyncio.ensure_future(self._processor.run())
        finished, _ = await asyncio.wait([leave, work], return_when=asyncio.FIRST_COMPLETED)
        for task in (leave, work):
            task.cancel()
        if work in finished:
            work.result()

    async def _stop(self) -> None:
        if self._receipts is not None:
            await self._receipts.stop()
        await self._consumer.stop()
        await self._fan_out.stop()
        await self._router.stop()
        if self._presence is not None:
            await self._presence.stop()
        await self._peers.stop()
        await self._registry.stop()

    def _reload(self) -> None:
        """The master has checked the new settings, and keeps what cannot change in a running process."""
        try:
            settings = self._load()
            log.setup(settings.log.level, settings.log.format, settings.log.file)
        except (ConfigError, StartupError) as e:
            event(_log, "reload: the old settings stay", logging.ERROR, reason=str(e))
            return
        self._processor.use(settings.processor)
        self._router.use(settings.processor.retry_s, settings.processor.max_age_s)
        self._fan_out.retry_s = settings.processor.retry_s
        event(_log, "reloaded")

    def _leave_quickly(self) -> None:
        self._quick = True
        self._leave.set()

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._row.set("heartbeat_ms", time.monotonic_ns() // 1_000_000)
        self._report()
        self._processor.look_again()

    def _report(self) -> None:
        row = self._row
        row.set("registry_up", self._registry.up)
        row.set("queue_up", self._consumer.up)
        row.set("in_flight", self._processor.in_flight)


def _receipts(settings: Settings, row: Row) -> Receipts | None:
    if not settings.queue.receipts:
        return None
    return Receipts(open_receipt_writer(settings.queue, queue_url(settings)), settings.peers.region, row)


def run_processor(
    settings: Settings,
    scoreboard: Scoreboard,
    row: int,
    slot: int,
    ready_fd: int,
    load: Callable[[], Settings] | None = None,
    beside: AbstractAsyncContextManager[None] | None = None,
) -> int:
    """The processor process, from fork to exit code. load: the settings after a HUP; None: they never change.

    beside: open meanwhile, on the same loop.
    """
    set_process(f"processor {slot}")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(log.on_loop_error)
        process = Process(settings, scoreboard.rows[row], slot, load or (lambda: settings))
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        async with beside or contextlib.nullcontext():
            await process.run(ready_fd)

    uvloop.run(main())
    return 0
