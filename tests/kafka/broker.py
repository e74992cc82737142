"""A real Kafka broker on 127.0.0.1, KRaft with one node, for tests and for `make kafka`.

Rules. It dies with the process that started it, and answers when start() returns. It keeps its ports while it is down,
and no client that tries again and again is given one of them by the kernel (free_port). PLAINTEXT is always there;
SASL and TLS listeners come beside it.

Two things are kept from a first run, made once for each Java: a class data archive (half the start's time) and
`bootstrap.checkpoint`, which says what the new cluster can do. Without the latter, KIP-848 groups are refused.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import socket
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.jars import cache, jars, made_once
from tests.support import end, free_port, halt, run, spawn

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
START_ATTEMPTS = 5  # each with other ports
CHECKPOINT = "bootstrap.checkpoint"
ARCHIVE = "classes.jsa"

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Groups that form at once, and members that are missed soon.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "200",
    "group.consumer.heartbeat.interval.ms": "500",
    # Small.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.cleaner.io.buffer.size": "65536",
    "log.segment.bytes": "67108864",
    "log.index.size.max.bytes": "1048576",
    "log.segment.delete.delay.ms": "1000",
    # Back soon after kill -9: the old registration has to expire first.
    "controller.quorum.election.timeout.ms": "200",
    "controller.quorum.election.backoff.max.ms": "200",
    "controller.quorum.fetch.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "200",
    "broker.session.timeout.ms": "1000",
}


class Broker:
    """One broker: .bootstrap, .url, .pid, start(), stop(), kill(), restart(), pause(), resume().

    port: 0 takes a free one, which it keeps when it is restarted. settings: more lines of server.properties.
    listeners: more listeners by name, with their protocol: {"SASL": "SASL_PLAINTEXT"}; their ports are in .ports.
    """

    def __init__(
        self,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        heap_mib: int = 256,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zpush-kafka-"))
        self.ports: dict[str, int] = {}
        self._port = port
        self._settings = dict(settings or {})
        self._protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **(listeners or {})}
        self._heap_mib = heap_mib
        self._process: Popen[str] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        path = self.directory / "kafka.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Returns when clients are answered. RuntimeError with the broker's log where it does not come up.

        A port that somebody took meanwhile is replaced, except where others know it: it was asked for, or had before.
        """
        kept = _kept()
        self._format(kept / CHECKPOINT)
        options = ("-Xshare:auto", f"-XX:SharedArchiveFile={kept / ARCHIVE}")
        known = bool(self.ports)
        for _ in range(1 if known or self._port else START_ATTEMPTS):
            if not known:
                self.ports = self._pick_ports()
            if self._run(options):
                return
            if "BindException" not in self.log:
                break
        log = self.log
        self.stop()
        raise RuntimeError(f"Kafka did not start:\n{log[-4000:]}")

    def _run(self, options: tuple[str, ...]) -> bool:
        """Whether it came up."""
        properties = self.directory / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        with open(self.directory / "kafka.log", "a") as log:
            command = jars().command("kafka.Kafka", properties, heap_mib=self._heap_mib, options=options)
            self._process = spawn(*command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if answers(self.bootstrap):
                return True
            time.sleep(0.02)
        end(self._process)
        self._process = None
        return False

    def _pick_ports(self) -> dict[str, int]:
        ports = {"PLAINTEXT": self._port} if self._port else {}
        for name in self._protocols:
            ports.setdefault(name, free_port())
        return ports

    def _properties(self) -> dict[str, str]:
        listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()}
        return {
            **SETTINGS,
            "log.dirs": str(self.directory / "data"),
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "listeners": ",".join(listeners.values()),
            "advertised.listeners": ",".join(at for name, at in listeners.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{p}" for name, p in self._protocols.items()),
            **self._settings,
        }

    def _format(self, checkpoint: Path) -> None:
        """What StorageTool would write, without a second JVM: a new cluster's identity."""
        data = self.directory / "data"
        if data.exists():
            return
        data.mkdir(parents=True)
        shutil.copy(checkpoint, data)
        identity = {"version": "1", "cluster.id": _new_id(), "directory.id": _new_id(), "node.id": "1"}
        (data / "meta.properties").write_text("".join(f"{key}={value}\n" for key, value in identity.items()))

    def kill(self) -> None:
        """kill -9, as an out-of-memory killer would; data and ports are kept."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def terminate(self) -> None:
        """In order, as an operator would; data and ports are kept."""
        if self._process is not None:
            try:
                end(self._process, signal.SIGTERM, STOP_TIMEOUT_S)
            except TimeoutExpired:
                end(self._process)
            self._process = None

    def restart(self) -> None:
        """After kill -9, on the same data and ports."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        halt(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> int:
        """Until it ends by itself; its exit code."""
        assert self._process is not None, "the broker is not running"
        return self._process.wait()

    def stop(self) -> None:
        """For good: nothing of it is kept."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def answers(bootstrap: str) -> bool:
    """Whether a client would get an answer: the port is open and the broker knows itself."""
    host, _, port = bootstrap.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    try:
        quiet: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None}
        return bool(AdminClient(quiet).list_topics(timeout=2.0).brokers)
    except KafkaException:
        return False


def _new_id() -> str:
    """As Kafka writes its ids: 22 characters, and no dash in front, which would look like an option."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")


@functools.cache
def _kept() -> Path:
    """The folder with what is kept from a first run with this Java."""
    name = hashlib.sha256(jars().java_version.encode()).hexdigest()[:12]
    return made_once(cache() / f"start-{name}", _first_run)


def _first_run(kept: Path) -> None:
    broker = Broker()
    try:
        broker.ports = broker._pick_ports()
        properties = broker.directory / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in broker._properties().items()))
        formatted = run(*jars().command("kafka.tools.StorageTool", "format", "-t", _new_id(), "-c", properties))
        if formatted.returncode:
            raise RuntimeError(f"Kafka's StorageTool failed:\n{formatted.stdout}{formatted.stderr}")
        shutil.copy(broker.directory / "data" / CHECKPOINT, kept)
        if not broker._run((f"-XX:ArchiveClassesAtExit={kept / ARCHIVE}",)):
            raise RuntimeError(f"Kafka did not start:\n{broker.log[-4000:]}")
        broker.terminate()
    finally:
        broker.stop()
