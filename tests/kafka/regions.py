"""Three regions on one machine, as docs/regions.md has them: `python -m tests.kafka.regions` keeps them until Ctrl-C.

Each has a broker, a MirrorMaker 2 that copies into it, and a zpush with a registry of its own. Regions know each
other's brokers by gates, so that one can be cut off.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from confluent_kafka.admin import AdminClient

from tests.kafka.broker import Broker
from tests.kafka.jars import jars, missing
from tests.kafka.mirror import Gate, Mirror
from tests.road.server import Server
from tests.support import run_zpush, wait_until
from zpush.protocol.message import Priority
from zpush.queue import kafka_names

NAMES = ("us", "eu", "asia")
COPYING_S = 120.0  # MirrorMaker's start on a busy machine: 15 s on a quiet one
SETTINGS = (
    "server.workers=1",
    "queue.partitions=2",
    "queue.kafka.mirrored=true",
    "queue.kafka.topic.metadata.refresh.interval.ms=500",
)
TOLD = """\
Three regions. A client of asia, and a message for it that is pushed in us:
  .venv/bin/zpush listen demo --url ws://{asia.server.clients}/ws
  .venv/bin/zpush push --client demo "hello" --url {us.server.api}
{lines}
Ctrl-C stops all of them."""


class RegionalBroker(Broker):
    """Its own region connects to it, other regions to its gate."""

    def __init__(self) -> None:
        super().__init__(listeners={"GATE": "PLAINTEXT"})
        self._gate: Gate | None = None

    @property
    def gate(self) -> Gate:
        if self._gate is None:
            self._gate = Gate(self.ports["GATE"])
        return self._gate

    def _properties(self) -> dict[str, str]:
        properties = super()._properties()
        behind, before = (f"GATE://127.0.0.1:{port}" for port in (self.ports["GATE"], self.gate.port))
        advertised = properties["advertised.listeners"].replace(behind, before)
        return {**properties, "advertised.listeners": advertised}

    def stop(self) -> None:
        super().stop()
        if self._gate is not None:
            self._gate.close()


class Region:
    def __init__(self, name: str) -> None:
        self.name = name
        self.broker = RegionalBroker()
        self.server = Server(f"peers.region={name}", *SETTINGS)
        self.mirror: Mirror | None = None

    def start(self) -> None:
        """All but the mirror."""
        self.broker.start()
        sets = [part for each in (f"queue.url={self.broker.url}", *SETTINGS) for part in ("--set", each)]
        created = run_zpush("topics", "create", *sets)
        assert created.returncode == 0, created.stderr
        self.server.start(f"queue.url={self.broker.url}")

    def copy_from(self, others: Sequence[Region]) -> None:
        gates = {other.name: f"127.0.0.1:{other.broker.gate.port}" for other in others}
        self.mirror = Mirror(self.name, {**gates, self.name: self.broker.bootstrap})

    @property
    def topics(self) -> set[str]:
        """All that its broker has."""
        return set(AdminClient({"bootstrap.servers": self.broker.bootstrap}).list_topics(timeout=10).topics)

    @property
    def copied(self) -> set[str]:
        """What it is to have of the others."""
        others = set(NAMES) - {self.name}
        return {f"{name}.{kafka_names.topic('zpush', p)}" for name in others for p in Priority}

    def has_copies(self) -> bool:
        return self.copied <= self.topics

    def cut_off(self) -> None:
        """Nothing comes in and nothing goes out; who is here notices nothing."""
        assert self.mirror is not None
        self.broker.gate.cut()
        self.mirror.pause()

    def come_back(self) -> None:
        assert self.mirror is not None
        self.broker.gate.heal()
        self.mirror.resume()

    def stop(self) -> None:
        self.server.close()
        if self.mirror is not None:
            self.mirror.stop()
        self.broker.stop()


class Regions:
    """us, eu, asia."""

    def __init__(self) -> None:
        self.all = [Region(name) for name in NAMES]
        self.us, self.eu, self.asia = self.all

    def start(self) -> None:
        """Returns when every region has the others' topics."""
        jars()
        self._at_once(Region.start)
        for region in self.all:
            region.copy_from([other for other in self.all if other is not region])
        for region in self.all:
            wait_until(region.has_copies, f"{region.name} has the others' topics", COPYING_S)

    def stop(self) -> None:
        self._at_once(Region.stop)

    def _at_once(self, step: Callable[[Region], None]) -> None:
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(step, self.all))


def main() -> int:
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    regions = Regions()
    print("Starting three brokers, three MirrorMakers and three zpush: about half a minute.", flush=True)
    try:
        regions.start()
        lines = "\n".join(
            f"{r.name}: clients {r.server.clients}, API {r.server.api}, {r.broker.url}" for r in regions.all
        )
        print(TOLD.format(us=regions.us, asia=regions.asia, lines=lines), flush=True)
        signal.pause()
    except AssertionError as e:
        print(e, file=sys.stderr)
        return 1
    finally:
        regions.stop()
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
