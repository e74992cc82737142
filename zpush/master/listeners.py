"""The listening sockets, made once by the master and kept for as long as it lives.

Rules. Each worker slot has its own client and API listener, grouped by SO_REUSEPORT, so that the kernel
spreads connections without a lock or a thundering herd, and its own port for peers. They outlive their
worker: what is queued in one waits for the next worker. A slot that nobody serves leaves the group by
`shutdown()` (connects then go to its siblings) and comes back by `listen()`. Such a socket keeps its port
only if it was bound to it by number: with port 0, the kernel picks one once and all are bound to that.
A slot that comes later is bound to the addresses that were chosen, whatever the settings say by then.
TCP options are set here and inherited by every accepted connection.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from zpush import log
from zpush.config import Settings
from zpush.config.units import split_address
from zpush.errors import StartupError
from zpush.server.listeners import Listeners

TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module has it on macOS only
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
MAX_PORT = 65535
POLL_S = 0.05

_logger = logging.getLogger("zpush.master")


def open_listeners(settings: Settings, slots: int, patience_s: float = 0.0) -> list[Listeners]:
    """Bound and listening. patience_s: for workers of a dead run, who are about to leave, to let go of a port.

    Raises StartupError with the setting, the address and a remedy.
    """
    backlog = settings.server.backlog
    _warn_of_small_somaxconn(backlog, logging.INFO if settings.for_development else logging.WARNING)
    deadline = time.monotonic() + patience_s
    clients = _open_group("server.bind", *split_address(settings.server.bind), slots, deadline)
    set_options(clients, settings)
    apis = _open_group("api.bind", *split_address(settings.api.bind), slots, deadline)
    host, port = settings.peers.bind, settings.peers.port
    peers = [_open_group("peers.port", host, port and port + slot, 1, deadline)[0] for slot in range(slots)]
    found = [Listeners(*each) for each in zip(clients, apis, peers, strict=True)]
    for sockets in found:
        join(sockets, backlog)
    return found


def open_metrics(settings: Settings) -> socket.socket | None:
    """The one that all processors of a `zpush process` share: scrapes are few. None where none is wanted."""
    if not settings.processor.metrics_bind:
        return None
    address = split_address(settings.processor.metrics_bind)
    listener = _open_group("processor.metrics_bind", *address, 1, time.monotonic())[0]
    listener.listen(settings.server.backlog)
    return listener


def open_another(settings: Settings, slot: int, beside: Listeners) -> Listeners:
    """One more slot's, bound and not yet listening: they join the others when there is a worker behind them.

    Raises StartupError.
    """
    port = settings.peers.port and settings.peers.port + slot
    if port > MAX_PORT:
        raise StartupError(f"peers.port: worker {slot} would listen on port {port}, past {MAX_PORT}")
    with contextlib.ExitStack() as opened:
        client = opened.enter_context(_bind_beside("server.bind", beside.client))
        api = opened.enter_context(_bind_beside("api.bind", beside.api))
        peers = opened.enter_context(_open_group("peers.port", settings.peers.bind, port, 1, time.monotonic())[0])
        set_options([client], settings)
        opened.pop_all()
    return Listeners(client, api, peers)


def set_options(clients: Iterable[socket.socket], settings: Settings) -> None:
    """What connections inherit from now on. The sockets are shared: a worker's copy has it at once."""
    for each in clients:
        each.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, settings.connections.notsent_lowat_bytes)


def leave(sockets: Iterable[socket.socket]) -> None:
    """Takes listening sockets out of their groups. What waits in them is reset, or moved where tcp_migrate_req is 1."""
    for each in sockets:
        # Only once: the second shutdown() fails with ENOTCONN, but marks the socket as shut down for good, and
        # every connection accepted after a later listen() inherits that: its first read is an end of file.
        if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            each.shutdown(socket.SHUT_RDWR)


def join(sockets: Iterable[socket.socket], backlog: int) -> None:
    """Lets sockets listen (again). OSError: another program has taken the port in the meantime."""
    for each in sockets:
        each.listen(backlog)


def address(listener: socket.socket) -> str:
    """host:port as one would write it in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _open_group(setting: str, host: str, port: int, count: int, deadline: float) -> list[socket.socket]:
    while True:
        try:
            return _bind_group(host, port, count)
        except OSError as e:
            if e.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise StartupError(_explain(setting, host, port, e)) from None
        time.sleep(POLL_S)


def _bind_group(host: str, port: int, count: int) -> list[socket.socket]:
    """count sockets bound to one address. The first, bound without SO_REUSEPORT, tells whether it is free:
    another group of the same user would let us in, and take half of the connections."""
    family, _, _, _, bound = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with _new(family) as probe:
        probe.bind(bound)
        probe.listen(1)
    with _new(family, shared=True) as holder:  # keeps a port that the kernel picked until the group has it
        holder.bind(bound)
        bound = holder.getsockname()
        group = [_new(family, shared=True) for _ in range(count)]
        for each in group:
            each.bind(bound)
    return group


def _bind_beside(setting: str, other: socket.socket) -> socket.socket:
    bound = other.getsockname()
    try:
        sock = _new(other.family, shared=True)
        sock.bind(bound)
    except OSError as e:  # out of descriptors; or the whole group was out, and another program took its place
        raise StartupError(_explain(setting, bound[0], bound[1], e)) from None
    return sock


def _new(family: int, *, shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Connections of an earlier run that are still closing must not keep this one from starting.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


def _explain(setting: str, host: str, port: int, error: OSError) -> str:
    where = f"{setting}: cannot listen on {host} port {port}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}; another program has it (ss -ltnp 'sport = :{port}'): stop that one, or set {setting}"
    if error.errno == errno.EACCES:
        return f"{where}; ports below 1024 need the capability CAP_NET_BIND_SERVICE, or set {setting}"
    return f"{where}; set {setting} to an address of this machine"


def _warn_of_small_somaxconn(backlog: int, level: int) -> None:
    try:
        limit = int(SOMAXCONN.read_text())
    except (OSError, ValueError):
        return  # no /proc here: there is nothing to say
    if limit < backlog:
        log.event(
            _logger,
            "backlog is capped by the kernel",
            level,
            backlog=backlog,
            somaxconn=limit,
            remedy=f"sysctl -w net.core.somaxconn={backlog}",
        )
