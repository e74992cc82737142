"""What must not change while others misbehave: two settled clients, one on each worker, and the workers themselves.

Rules. `served` says that both get a direct push, now. `unharmed` compares with what was before: the same processes,
no descriptor more, no connection but theirs, nothing unsent, and memory within a margin that a leak of one buffer a
test would pass. It waits for what takes a moment (a closing handshake, a linger) and for nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Self
from weakref import WeakSet

from tests.road.api import Api
from tests.road.devices import Device, open_spread
from tests.road.server import Server
from tests.support import eventually
from zpush.protocol.message import Priority

MEMORY_MARGIN_BYTES = 8 << 20
BACK_S = 20.0  # lingers and closing handshakes have 5 s, keepalive and its pong a few more
PRIORITIES = [p.label for p in Priority]
_names = itertools.count()
_warm: WeakSet[Server] = WeakSet()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Bystanders:
    """A context: opens the clients, takes the measure; `unharmed` compares."""

    def __init__(self, server: Server, api: Api) -> None:
        self.server = server
        self._api = api
        self._devices: list[Device] = []
        self._pids: list[int] = []
        self._descriptors: list[int] = []
        self._resident: list[int] = []

    async def __aenter__(self) -> Self:
        self._devices = await open_spread(self.server, f"settled{next(_names)}")
        if self.server not in _warm:
            await self._warm_up()
            _warm.add(self.server)
        await self.served()
        await self._alone()
        self._pids = self.pids()
        self._descriptors = [descriptors(pid) for pid in self._pids]
        self._resident = [resident_bytes(pid) for pid in self._pids]
        return self

    async def __aexit__(self, *_: object) -> None:
        for device in self._devices:
            await device.close()

    async def _warm_up(self) -> None:
        """Whatever is opened once is open from now on: the links from each process to each worker, one a priority."""
        async with contextlib.AsyncExitStack() as stack:
            apis = [await stack.enter_async_context(Api(self.server.api)) for _ in range(16)]  # all to one: 2**-15
            for device in self._devices:
                for priority in PRIORITIES:
                    await self._api.push({"client": device.client_id}, text="warm", priority=priority)
                    assert await device.receive() == "warm"
                    for api in apis:
                        assert await api.direct(device.client_id, "warm", priority=priority) == "delivered"
                        assert await device.receive() == "warm"

    def pids(self) -> list[int]:
        return [self.server.pid_of("workers", slot) for slot in (0, 1)]

    async def served(self) -> None:
        for number, device in enumerate(self._devices):
            assert await self._api.direct(device.client_id, f"now {number}") == "delivered"
            assert await device.receive() == f"now {number}"

    async def unharmed(self) -> None:
        await self.served()
        await self._alone()
        assert self.pids() == self._pids, "a worker was replaced"
        await eventually(self._closed, "descriptors are back")
        for pid, before in zip(self._pids, self._resident, strict=True):
            assert resident_bytes(pid) - before < MEMORY_MARGIN_BYTES

    def _closed(self) -> bool:
        return all(descriptors(pid) <= before for pid, before in zip(self._pids, self._descriptors, strict=True))

    async def _alone(self) -> None:
        async def alone() -> bool:
            metrics = await self._api.metrics()
            idle = not metrics.total("zpush_unsent_bytes") and not metrics.total("zpush_in_flight_messages")
            return idle and metrics.total("zpush_connections") == len(self._devices)

        await eventually(alone, "nobody else is connected, nothing is unsent", BACK_S)
