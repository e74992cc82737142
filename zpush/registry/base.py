"""The registry's contract: which worker holds this client now?

Rules. A lease names a client's owner by node id (a worker's incarnation, new at each start) and an
epoch. Epochs decide, never arrival order. A lease is live only if its node is. All calls of one loop
turn travel together. When the server is away every call raises RegistryUnavailable, quickly.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec

from zpush._fast.lease import Lease as Lease  # noqa: PLC0414 - a part of the contract
from zpush.errors import RegistryUnavailable

IN_TIME_MS = 250  # a handshake whose lease is not written by then is opened without; written later, it counts as late


Stored = Lease | RegistryUnavailable | None  # an error: the client's shard is away, while others may not be


class NodeState(enum.StrEnum):
    UP = "up"
    REPAIRING = "repairing"  # its leases are being written again: a miss is transient while any node says so
    DRAINING = "draining"


class Node(msgspec.Struct, frozen=True):
    """One worker's incarnation. address: host:port of its internal port."""

    id: str
    address: str
    region: str
    state: NodeState
    box: str = ""  # host name of the machine
    slot: int = 0
    pid: int = 0
    connections: int = 0
    started_ms: int = 0
    dirty_leases: int = 0  # connections whose lease has yet to be written


class Server(msgspec.Struct, frozen=True):
    """Where the registry is kept. role and replicas: in a cluster, of the shard that holds the list of nodes."""

    server: str  # as configured, without credentials
    role: str  # "master", in the server's own word
    replicas: int  # connected now: none means that a failover would lose everything
    reason: str  # what is wrong; "" where all is well


class Registration(msgspec.Struct, frozen=True):
    """The epoch a new handshake was given, and the lease it replaced (None where there was none)."""

    epoch: int
    replaced: Lease | None


class Renewal(enum.Enum):
    EXTENDED = "extended"
    MISSING = "missing"


class Registry(Protocol):
    """Shapes: sequences in, lists of the same length and order out. Times in ms (Unix), TTLs from the settings."""

    @property
    def up(self) -> bool:
        """False from a lost connection until the next one is authenticated and usable."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def on_reconnect(self, callback: Callable[[bool], None]) -> None:
        """callback(changed): after each reconnect; changed: the server's run id or role is not what it was."""
        ...

    async def register_many(self, leases: Sequence[Lease]) -> list[Registration | Lease | RegistryUnavailable]:
        """New handshakes: each wins, with epoch = max(stored + 1, its own).

        A Lease: this was carried out after IN_TIME_MS, and a newer handshake was there before it; that one holds.
        Errors are in the list: in a cluster one shard may be away.
        """
        ...

    async def register_late(self, lease: Lease) -> Lease | None:
        """A repair or a late registration. None: it won (stored absent, older or its own); else the newer lease."""
        ...

    async def renew(self, leases: Sequence[Lease]) -> list[Renewal | Lease | RegistryUnavailable]:
        """Extends what is still its own; a Lease in the answer is the one that holds instead. Errors as above."""
        ...

    async def remove_many(self, leases: Sequence[Lease]) -> list[bool | RegistryUnavailable]:
        """Deletes those that are unchanged (same node and epoch). An error: nobody knows whether it is deleted."""
        ...

    @property
    def reads_replicas(self) -> bool:
        """A lease that look_up() finds may be an old one; that there is none is never old."""
        ...

    async def look_up(self, client_ids: Sequence[str], *, fresh: bool = False) -> list[Stored]:
        """Whatever is stored, live or not: compare node_id with nodes(). fresh: never from a replica."""
        ...

    async def user_clients(self, user_id: str) -> dict[str, Stored]:
        """The user's clients that were there within a lease TTL, each with what is stored for it now.

        At most registry.user_devices, those seen last. Without clients whose lease names another user by now.
        """
        ...

    async def announce(self, node: Node) -> None:
        """Writes the node's key (TTL registry.node_ttl)."""
        ...

    async def renew_node(self, node: Node) -> bool:
        """announce() where the key is still there. False: leases of this node may be gone, look at all of them.

        Others took it for dead, or a shard of the registry has lost its data.
        """
        ...

    async def withdraw(self, node_id: str) -> None:
        """The node is gone, now: clean shutdown, or a refused connection to its address."""
        ...

    async def nodes(self) -> dict[str, Node]:
        """The live nodes by id, read now."""
        ...

    async def find_nodes(self, node_ids: Collection[str]) -> dict[str, Node]:
        """Those of them that live, read now."""
        ...

    async def server(self) -> Server: ...

    async def whole(self) -> bool:
        """Whether a client without a lease is connected nowhere.

        Some node is known, none is repairing, renewals are taken, and no shard has just lost its data.
        """
        ...
