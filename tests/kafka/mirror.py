"""MirrorMaker 2 as deploy/mirror/ sets it up, on brokers of this machine; and a gate that cuts a region off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from tests.kafka.jars import jars
from tests.support import ROOT, end, halt, spawn

SAMPLES = ROOT / "deploy" / "mirror"
STOP_TIMEOUT_S = 20.0
# What differs on one machine: brokers without replicas, and topics that are found soon.
HERE = {
    "replication.factor": "1",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset-syncs.topic.replication.factor": "1",
    "offset.storage.partitions": "1",
    "status.storage.partitions": "1",
    "tasks.max": "1",
    "refresh.topics.interval.seconds": "1",
    "scheduled.rebalance.max.delay.ms": "0",
    "consumer.reconnect.backoff.max.ms": "500",
}


class Mirror:
    """Copies into `region`. bootstraps: where it reaches each region's broker."""

    def __init__(self, region: str, bootstraps: Mapping[str, str]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="zpush-mirror-"))
        properties = self._directory / "mirror.properties"
        here = HERE | {f"{name}.bootstrap.servers": bootstrap for name, bootstrap in bootstraps.items()}
        properties.write_text(_changed((SAMPLES / f"{region}.properties").read_text(), here))
        main = "org.apache.kafka.connect.mirror.MirrorMaker"
        with open(self._directory / "mirror.log", "w") as log:
            command = jars().command(main, properties, "--clusters", region)
            self._process: Popen[str] = spawn(*command, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return (self._directory / "mirror.log").read_text(errors="replace")

    def pause(self) -> None:
        """SIGSTOP."""
        halt(self._process.pid)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        try:
            end(self._process, signal.SIGTERM, STOP_TIMEOUT_S)
        except TimeoutExpired:
            end(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)


def _changed(properties: str, changes: Mapping[str, str]) -> str:
    """Each change replaces the line of its key, or is one more line."""
    lines = [line for line in properties.splitlines() if line.partition("=")[0] not in changes]
    return "\n".join([*lines, *(f"{key}={value}" for key, value in changes.items())]) + "\n"


class Gate:
    """A TCP port in front of another one, in a thread of its own: what other regions know a broker by."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Ends every connection; new ones end at once."""
        self._loop.call_soon_threadsafe(self._cut)

    def heal(self) -> None:
        self._open = True

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _cut(self) -> None:
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, other_writer}
        try:
            await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))
        finally:
            self._writers -= {writer, other_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
