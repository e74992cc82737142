"""The ways in which a registry's servers are set up, each as one object of real processes.

Rules. All have the same face: `url`, `primary_of`, `replica_of`, `failover`, `detect_within`, `heal`. Failures are
detected after half a minute, unless a test asks for sooner: a busy machine must not look like a dead server.
`failover` does not wait for a detection. `heal` makes everything as it was: all run, each primary has its replica, no
data, default settings; it is cheap where nothing was disturbed.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.store.servers import (
    DOWN_AFTER_MS,
    FAILOVER_TIMEOUT_MS,
    QUORUM,
    VALKEY,
    Binary,
    Sentinel,
    Server,
)
from tests.support import free_port, wait_until

SERVICE = "main"
SHARDS = 3
SLOTS = 16384
NODE_TIMEOUT_MS = 30_000
HEAL_WITHIN_MS = 2000
INFO_PERIOD_MS = 200  # how often Sentinels look at a server; 10 s where nobody says otherwise
TILT_TRIGGER_MS = 600_000  # of standing still after which a Sentinel does nothing for half a minute; 2 s likewise


class Topology(ABC):
    """servers: those that hold data. url: what zpush is told."""

    url: str

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zpush-topology-"))
        self.servers: list[Server] = []
        self._disturbed = False

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def primary_of(self, key: str = "") -> Server:
        """Who holds the key, dead or alive, as far as those who decide have noticed."""

    @abstractmethod
    def replica_of(self, key: str = "") -> Server:
        """Of the primary of this key. AssertionError where there is none."""

    @abstractmethod
    def failover(self, key: str = "") -> Server:
        """The replica is the primary now, everybody says so; the old primary may be dead. Returns the new one."""

    def detect_within(self, milliseconds: int) -> None:
        """From now on, until heal(): a dead primary is noticed by itself, and replaced."""

    @abstractmethod
    def _mend(self) -> None:
        """Everything runs, and each primary has its replica."""

    def primaries(self) -> list[Server]:
        return [self.primary_of()]

    def disturb(self) -> None:
        """Before a test changes what heal() has to mend. The methods here say so themselves."""
        self._disturbed = True

    def kill(self, server: Server) -> None:
        self._disturbed = True
        server.kill()

    def restart(self, server: Server) -> None:
        """Without data. In a cluster, or once a Sentinel has seen it, it takes the role that it is given there."""
        self._disturbed = True
        server.restart()

    def pause(self, server: Server) -> None:
        self._disturbed = True
        server.pause()

    def cut_off(self, replica: Server) -> None:
        """It hears of nothing more that its primary does, and goes on to say what it knew."""
        self._disturbed = True
        replica.command("CONFIG", "SET", "masteruser", "nobody")
        replica.command("CONFIG", "SET", "masterauth", "nothing")
        for primary in self.primaries():
            primary.command("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: replica.info("master_link_status") == "down", "the replica is cut off")

    def heal(self) -> None:
        if not self._disturbed:
            try:
                self._clear()
                return
            except redis.RedisError:  # disturbed by nobody here: a busy machine, or a script that still runs
                self._disturbed = True
        self._mend()
        self._clear()
        self._disturbed = False

    def _clear(self) -> None:
        for server in self.servers:
            server.command("CONFIG", "SET", "maxmemory", 0)
            for user in server.command("ACL", "USERS"):
                if user != "default":
                    server.command("ACL", "DELUSER", user)
        for server in self.primaries():
            server.command("FLUSHALL")

    def _revive(self, servers: Sequence[Server]) -> None:
        for server in servers:
            if server.running:
                server.resume()
            else:
                server.launch()
        for server in servers:
            server.wait_ready()

    def _reconnect(self) -> None:
        for server in self.servers:
            server.command("CONFIG", "SET", "masteruser", "")
            server.command("CONFIG", "SET", "masterauth", "")

    def stop(self) -> None:
        for server in self._all():
            server.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _all(self) -> list[Server]:
        return self.servers


class Standalone(Topology):
    def __init__(self, binary: Binary = VALKEY) -> None:
        super().__init__()
        self.servers = [Server(self.directory, binary)]
        self.url = f"redis://{self.servers[0].address}"

    def start(self) -> None:
        self.servers[0].start()

    def primary_of(self, key: str = "") -> Server:
        return self.servers[0]

    def replica_of(self, key: str = "") -> Server:
        raise AssertionError("a standalone server has no replica")

    def failover(self, key: str = "") -> Server:
        raise AssertionError("a standalone server has no replica")

    def _mend(self) -> None:
        self._revive(self.servers)


class Sentinels(Topology):
    """A primary, a replica, and three Sentinels that watch them."""

    def __init__(self, binary: Binary = VALKEY) -> None:
        super().__init__()
        self.servers = [Server(self.directory, binary) for _ in range(2)]
        self.sentinels = [Sentinel(self.directory, binary) for _ in range(3)]
        self.url = f"redis+sentinel://{','.join(s.address for s in self.sentinels)}/{SERVICE}"

    def start(self) -> None:
        primary, replica = self.servers
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready()
        replica.command("REPLICAOF", "127.0.0.1", primary.port)
        for sentinel in self.sentinels:
            others = [each for each in self.sentinels if each is not sentinel]
            sentinel.watch(SERVICE, primary, replica, others)
            sentinel.launch()
        self._mend()

    def primary_of(self, key: str = "") -> Server:
        [(port, _)] = Counter(self._port_named_by(s) for s in self.sentinels if s.running).most_common(1)
        return next(server for server in self.servers if server.port == port)

    def replica_of(self, key: str = "") -> Server:
        primary = self.primary_of()
        return next(server for server in self.servers if server is not primary)

    def _port_named_by(self, sentinel: Sentinel) -> int:
        _, port = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(port)

    def failover(self, key: str = "") -> Server:
        self._disturbed = True
        replica = self.replica_of()
        sentinel = next(s for s in self.sentinels if s.running)
        asked = Insistence(sentinel, "-failover-abort", "SENTINEL", "FAILOVER", SERVICE)
        wait_until(lambda: asked() and self._all_name(replica), "all Sentinels name the new primary")
        return replica

    def _all_name(self, primary: Server) -> bool:
        ports = {self._port_named_by(s) for s in self.sentinels if s.running}
        return ports == {primary.port} and primary.info("role") == "master"

    def detect_within(self, milliseconds: int) -> None:
        self._disturbed = True
        for sentinel in self.sentinels:
            sentinel.command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", milliseconds)

    def _mend(self) -> None:
        self._revive(self.sentinels)
        self._revive(self.servers)
        self._reconnect()
        for sentinel in self.sentinels:
            sentinel.command("SENTINEL", "DEBUG", "info-period", INFO_PERIOD_MS, "tilt-trigger", TILT_TRIGGER_MS)
        self.detect_within(DOWN_AFTER_MS)
        wait_until(self._follows, "the replica follows")
        wait_until(lambda: all(map(_sees_all, self.sentinels)), "the Sentinels see each other and both servers")

    def _follows(self) -> bool:
        """And all name its primary, or are told to now: a failover may have been under way, and may change it."""
        primary, replica = self.primary_of(), self.replica_of()
        for sentinel in self.sentinels:
            if self._port_named_by(sentinel) != primary.port:
                self.name(sentinel, primary)
        if primary.info("role") != "master":
            primary.command("REPLICAOF", "NO", "ONE")
        if replica.info("role") != "slave":
            replica.command("REPLICAOF", "127.0.0.1", primary.port)
        return replica.info("master_link_status") == "up"

    def name(self, sentinel: Sentinel, primary: Server) -> None:
        """This Sentinel names another primary, whatever the others say, for two seconds at least."""
        self._disturbed = True
        sentinel.command("SENTINEL", "REMOVE", SERVICE)
        sentinel.command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", primary.port, QUORUM)
        sentinel.command("SENTINEL", "SET", SERVICE, "failover-timeout", FAILOVER_TIMEOUT_MS)
        sentinel.command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", DOWN_AFTER_MS)

    def _all(self) -> list[Server]:
        return [*self.servers, *self.sentinels]


def _sees_all(sentinel: Sentinel) -> bool:
    replicas, others = (_rows(sentinel.command("SENTINEL", what, SERVICE)) for what in ("REPLICAS", "SENTINELS"))
    follows = [(row["flags"], row["master-link-status"]) for row in replicas] == [("slave", "ok")]
    return follows and len(others) == 2 and not any("s_down" in row["flags"] for row in others)


def _rows(reply: list[Any]) -> list[dict[str, str]]:
    return [dict(zip(row[::2], row[1::2], strict=True)) if isinstance(row, list) else row for row in reply]


class Cluster(Topology):
    """Three primaries, each with a replica."""

    def __init__(self, binary: Binary = VALKEY) -> None:
        super().__init__()
        self.servers = [
            Server(
                self.directory,
                binary,
                cluster_enabled="yes",
                cluster_port=str(free_port()),
                cluster_node_timeout=str(NODE_TIMEOUT_MS),
                cluster_allow_replica_migration="no",
                cluster_replica_validity_factor="0",
            )
            for _ in range(2 * SHARDS)
        ]
        self.url = f"redis+cluster://{','.join(server.address for server in self.servers[:2])}"

    def start(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready()
        for number, server in enumerate(self.servers):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number in range(SHARDS):
            first, last = number * SLOTS // SHARDS, (number + 1) * SLOTS // SHARDS - 1
            self.servers[number].command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for server in self.servers:
            for other in self.servers:
                if other is not server:
                    bus = other.command("CONFIG", "GET", "cluster-port")
                    bus_port = bus["cluster-port"] if isinstance(bus, dict) else bus[1]
                    server.command("CLUSTER", "MEET", "127.0.0.1", other.port, bus_port)
        wait_until(lambda: all(map(self._knows_all, self.servers)), "all nodes have met")
        for number in range(SHARDS):
            primary, replica = self.servers[number], self.servers[number + SHARDS]
            replica.command("CLUSTER", "REPLICATE", primary.command("CLUSTER", "MYID"))
        self._wait_well()

    def _knows_all(self, server: Server) -> bool:
        lines = str(server.command("CLUSTER", "NODES")).splitlines()
        return len(lines) == len(self.servers) and not any("handshake" in line for line in lines)

    def primaries(self) -> list[Server]:
        return list(dict.fromkeys(self._by_port(entry[2][1]) for entry in self._slots()))

    def primary_of(self, key: str = "") -> Server:
        return self._by_port(self._entry(key)[2][1])

    def replica_of(self, key: str = "") -> Server:
        """A node names another one's replica once that has told it how far it is: a few seconds, at times."""
        wait_until(lambda: len(self._entry(key)) > 3, f"the replica of {self.primary_of(key)!r} is known")
        return self._by_port(self._entry(key)[3][1])

    def key_of(self, primary: Server) -> str:
        """A key that this primary has."""
        return next(key for key in map(str, range(1000)) if self.primary_of(key) is primary)

    def _entry(self, key: str) -> Any:
        slot = key_slot(key.encode())
        return next(entry for entry in self._slots() if entry[0] <= slot <= entry[1])

    def _slots(self) -> list[Any]:
        server = next(server for server in self.servers if server.running)
        slots: list[Any] = server.command("CLUSTER", "SLOTS")
        return slots

    def _by_port(self, port: int) -> Server:
        return next(server for server in self.servers if server.port == port)

    def failover(self, key: str = "") -> Server:
        self._disturbed = True
        primary, replica = self.primary_of(key), self.replica_of(key)
        how = () if primary.running else ("TAKEOVER",)
        asked = Insistence(replica, "Manual failover timed out", "CLUSTER", "FAILOVER", *how)
        self._wait_all(lambda s: asked() and _named_by(s, key) == replica.port, "all nodes name the new primary")
        return replica

    def detect_within(self, milliseconds: int) -> None:
        self.set_all("cluster-node-timeout", milliseconds)

    def set_all(self, setting: str, value: str | int) -> None:
        self._disturbed = True
        for server in self.servers:
            if server.running:
                server.command("CONFIG", "SET", setting, value)

    def flags(self, server: Server, seen_by: Server) -> set[str]:
        """What a node thinks of another: "fail" once most think so."""
        lines = str(seen_by.command("CLUSTER", "NODES")).splitlines()
        return next(set(line.split()[2].split(",")) for line in lines if f"{server.address}@" in line)

    def move_slot(self, slot: int, target: Server) -> None:
        """With all its keys; the cluster serves it all the time."""
        source = self.begin_move(slot, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, target)

    def begin_move(self, slot: int, target: Server) -> Server:
        """From now on the source answers ASK for keys that it has not. Returns the source."""
        source = next(self._by_port(e[2][1]) for e in self._slots() if e[0] <= slot <= e[1])
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))
        return source

    def move_keys(self, slot: int, source: Server, target: Server) -> None:
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, target: Server) -> None:
        """From now on the source answers MOVED."""
        node_id = target.command("CLUSTER", "MYID")
        others = [server for server in self.primaries() if server is not target]
        for server in [target, *others]:
            server.command("CLUSTER", "SETSLOT", slot, "NODE", node_id)

    def _mend(self) -> None:
        self._revive(self.servers)
        self._reconnect()
        self.set_all("cluster-require-full-coverage", "yes")
        self.detect_within(HEAL_WITHIN_MS)  # a node that failed is believed again after twice this
        self._wait_well()
        self.detect_within(NODE_TIMEOUT_MS)

    def _clear(self) -> None:
        self._wait_well()  # what a test has moved, or a busy machine took for a failure, is still being told around
        self._bring_home()
        super()._clear()

    def _bring_home(self) -> None:
        """Slots that a test has left with another shard. A shard is a server and the one SHARDS further on."""
        for first, last, (_, port, *_), *_ in self._slots():
            shard = self.servers.index(self._by_port(port)) % SHARDS
            if shard == _home(first) == _home(last):
                continue
            for slot in range(first, last + 1):
                home = self.servers[_home(slot)], self.servers[_home(slot) + SHARDS]
                if shard != _home(slot):
                    self.move_slot(slot, next(server for server in home if server.info("role") == "master"))
            self._wait_well()

    def _wait_well(self) -> None:
        self._wait_all(self._well, "the cluster is well")
        wait_until(lambda: len({_owners(server) for server in self.servers}) == 1, "all nodes agree on who has what")

    def _well(self, server: Server) -> bool:
        entries = server.command("CLUSTER", "SLOTS")
        covered = sum(entry[1] - entry[0] + 1 for entry in entries) == SLOTS and all(len(e) == 4 for e in entries)
        follows = server.info("role") == "master" or server.info("master_link_status") == "up"
        return covered and follows and "cluster_state:ok" in str(server.command("CLUSTER", "INFO"))

    def _wait_all(self, condition: Callable[[Server], bool], what: str) -> None:
        wait_until(lambda: all(condition(server) for server in self.servers if server.running), what)


def _named_by(server: Server, key: str) -> int:
    slot = key_slot(key.encode())
    return next((int(e[2][1]) for e in server.command("CLUSTER", "SLOTS") if e[0] <= slot <= e[1]), 0)


class Insistence:
    """A command that a server may refuse for now (no replica that is fit, another under way), or accept and give up
    later, as its log says: on a busy machine its own clocks are too strict. Each call asks again, if need be."""

    def __init__(self, server: Server, given_up: str, *command: str) -> None:
        self._server, self._given_up, self._command = server, given_up, command
        self._times = -1  # that it had given up when it accepted

    def __call__(self) -> bool:
        """Whether it has accepted it, and is at it or done."""
        times = self._server.said(self._given_up)
        if times > self._times:
            try:
                self._server.command(*self._command)
            except redis.ResponseError:
                return False
            self._times = times
        return True


def _home(slot: int) -> int:
    """The number of its shard, as start() gave them out."""
    return next(number for number in range(SHARDS) if slot < (number + 1) * SLOTS // SHARDS)


def _owners(server: Server) -> tuple[tuple[int, int, int], ...]:
    """(first slot, last slot, port of the primary), as this node sees it."""
    return tuple(sorted((entry[0], entry[1], entry[2][1]) for entry in server.command("CLUSTER", "SLOTS")))
