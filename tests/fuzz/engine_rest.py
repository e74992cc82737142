"""What must hold once a script is over: when the engine is at rest, and when it has been disposed of.

Rules. Rest is when everybody has read all there is and nothing moves. The kernel has timers of its own (delayed
acknowledgements, window probes), so a condition that is not met at once gets a moment; a script needs a millisecond.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from tests.fuzz.engine_clients import TEXT, Client
from tests.fuzz.engine_world import DELIVERED, NOT_HERE, REFUSED, Connection, World
from tests.fuzz.frames import client_frame
from zpush.protocol.message import Outcome

REST_S = 2.0
MOST_TURNS = 5000
ALL = 1 << 20
EVENT_STREAM = 3
GAUGES = ("connections_websocket", "connections_sse", "connections_unknown")


def come_to_rest(world: World) -> None:
    for _ in range(MOST_TURNS):
        before = bytes(world.cells)
        moved = bool(world.due) or bool(select.select([world.engine.fileno()], [], [], 0)[0])
        world.do_turn()
        for client in world.clients:
            moved = client.push() or moved
            moved = client.read(ALL) or moved
        if not moved and before == bytes(world.cells):
            return
    raise AssertionError("the engine does not come to rest")


def until(world: World, condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + REST_S
    come_to_rest(world)
    while not condition():
        assert time.monotonic() < deadline_s, what
        waiting = [client.sock.fileno() for client in world.clients if not client.gone]
        select.select([world.engine.fileno(), *waiting], [], [], 0.01)
        come_to_rest(world)


def check_at_rest(world: World) -> None:
    for connection in world.connections.values():
        if not connection.opened:  # what waits for its answer would stay pending
            world.engine.respond(connection.handle, REFUSED, "unavailable")
    until(world, lambda: not world.pending, f"never settled: {world.pending}")
    until(world, lambda: all(b.counts is not None for b in world.broadcasts.values()), "a broadcast without an end")
    for client in world.clients:
        client.answered()
        _check_received(world, client)
    for client, connection in _alive(world):
        _check_all_came(world, client, connection)
    for number, broadcast in world.broadcasts.items():
        receivers = sum(any(n == number for n, _ in client.messages()) for client in world.clients)
        assert broadcast.counts is not None
        assert set(broadcast.counts) <= {DELIVERED, int(Outcome.DROPPED), int(Outcome.RATE_LIMITED)}
        assert receivers <= broadcast.counts.get(DELIVERED, 0) <= len(world.connections)
    _check_gauges(world)
    _check_not_stuck(world)


def _alive(world: World) -> list[tuple[Client, Connection]]:
    """Those that are open on both sides."""
    return [
        (each.client, each)
        for each in world.connections.values()
        if each.client is not None and not each.client.gone and world.engine.is_open(each.handle)
    ]


def _check_received(world: World, client: Client) -> None:
    numbers = [number for number, _ in client.messages()]
    assert len(set(numbers)) == len(numbers), f"a message came twice: {numbers}"
    pushed = [number for number in numbers if number in world.pushes]
    assert pushed == sorted(pushed), f"out of order: {pushed}"
    ids = [each.id for each in world.connections.values() if each.client is client]
    for number, payload in client.messages():
        assert payload == world.payloads[number], "a payload was changed"
        if number in world.pushes:
            push = world.pushes[number]
            assert [push.id] == ids, "a message for somebody else"
            assert push.outcome in (DELIVERED, NOT_HERE), f"{number} came, and was {Outcome(push.outcome).name}"


def _check_all_came(world: World, client: Client, connection: Connection) -> None:
    """Whoever stayed and reads has all that was delivered to it."""
    wanted = {
        number
        for number, push in world.pushes.items()
        if push.handle == connection.handle and push.outcome == DELIVERED
    }
    until(
        world,
        lambda: client.gone or wanted <= {number for number, _ in client.messages()},
        f"{connection} misses messages that were delivered",
    )


def _check_gauges(world: World) -> None:
    is_open = sum(world.engine.is_open(handle) for handle in world.connections)
    assert sum(world.cell(gauge) for gauge in GAUGES) == is_open
    assert world.engine.connections <= world.capacity


def _check_not_stuck(world: World) -> None:
    """What is sent now leaves now; who asks now is answered now."""
    world.hooks.clear()
    for client, connection in _alive(world):
        if connection.protocol != EVENT_STREAM:
            _check_answers(world, client, connection)


def _check_answers(world: World, client: Client, connection: Connection) -> None:
    size = len(client.got)
    if world.engine.send(connection.handle, TEXT, b"still there?"):
        until(world, lambda: client.gone or len(client.got) > size, f"{connection} is stuck: nothing leaves")
    if client.whole and not client.finished and not client.gone and not world.limits["inbound_messages"]:
        client.say(client_frame(0x89, b"and you?", b"\0\0\0\0"))
        until(world, lambda: client.gone or client.pongs(b"and you?"), f"{connection} is stuck: nothing is read")


def check_disposed(world: World) -> None:
    for client in world.clients:
        client.reset()
    world.hooks.clear()
    world.engine.dispose()
    assert world.engine.connections == 0
    world.engine.sweep(1)
    assert world.cell("unsent_bytes") == 0
    assert world.cell("allocated") == world.cell("freed"), "memory was kept"
    assert not world.pending, "dispose settles what is pending"
    for connection in world.connections.values():
        assert connection.closed or not connection.id, "a bound connection ended without on_close"
    _check_gauges(world)


def sockets() -> int:
    """Open in this process. Engines of earlier scripts hold an epoll set until they are collected; no sockets."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(link) and os.readlink(link).startswith("socket:") for link in links)
