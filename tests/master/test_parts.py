"""The master's small parts: reactor, backoff, listeners, children."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket

import pytest

from tests.support import alive, wait_until
from zpush import config
from zpush.errors import ConfigError
from zpush.master import children, listeners
from zpush.master.backoff import Backoff, Timings
from zpush.master.reactor import Reactor


def test_timers_run_in_order_and_not_when_cancelled() -> None:
    reactor, ran = Reactor(), []
    reactor.call_later(0.02, lambda: ran.append("second"))
    reactor.call_later(0.0, lambda: ran.append("first"))
    reactor.call_later(0.01, lambda: ran.append("never")).cancel()
    reactor.run(lambda: len(ran) == 2)
    assert ran == ["first", "second"]
    reactor.close()


def test_callback_is_not_called_for_a_descriptor_closed_in_the_same_turn() -> None:
    reactor, ran = Reactor(), []
    pairs = [os.pipe(), os.pipe()]

    def hear(mine: int, other: int) -> None:
        ran.append(mine)
        reactor.unwatch(mine)
        reactor.unwatch(other)

    (a, a_end), (b, b_end) = pairs
    reactor.watch(a, lambda: hear(a, b))
    reactor.watch(b, lambda: hear(b, a))
    for end in (a_end, b_end):
        os.write(end, b"x")
    reactor.call_later(0.0, lambda: ran.append(0))
    reactor.run(lambda: 0 in ran)
    assert len(ran) == 2
    reactor.close()
    for end in (a, a_end, b, b_end):
        os.close(end)


def test_first_death_is_answered_at_once_then_waits_double_up_to_a_slow_retry() -> None:
    backoff = Backoff(Timings(backoff_s=0.5, slow_s=3.0, healthy_s=60.0))
    assert [backoff.died(0.0) for _ in range(7)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0, 3.0]
    assert backoff.slow
    assert backoff.died(59.0) == 3.0
    assert backoff.died(61.0) == 0.0, "it was well in between"
    assert not backoff.slow


def test_a_thousand_deaths_do_not_overflow() -> None:
    backoff = Backoff(Timings())
    assert max(backoff.died(0.0) for _ in range(5000)) == 30.0


def settings(*overrides: str) -> config.Settings:
    any_port = ("server.bind=127.0.0.1:0", "api.bind=127.0.0.1:0", "peers.port=0")
    return config.load(None, {}, [*any_port, *overrides])


def test_listener_keeps_its_port_and_options_outside_the_group() -> None:
    slots = listeners.open_listeners(settings("connections.notsent_lowat_bytes=20000"), 2)
    address = listeners.address(slots[0].client)
    for slot in slots:
        listeners.leave(slot)
        listeners.leave(slot)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(slots[0].client.getsockname())
    listeners.join(slots[1], 100)
    with socket.create_connection(slots[0].client.getsockname()) as connection:
        assert select.select([slots[1].client], [], [], 30.0)[0]  # connect() may be back before it stands in the queue
        accepted, _ = slots[1].client.accept()
        accepted.setblocking(True)
        connection.sendall(b"x")
        assert accepted.recv(1) == b"x", "a second shutdown() would have been inherited"
        assert accepted.getsockopt(socket.IPPROTO_TCP, listeners.TCP_NOTSENT_LOWAT) == 20000
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.close()
    assert listeners.address(slots[0].client) == listeners.address(slots[1].client) == address
    for each in (sock for slot in slots for sock in slot):
        each.close()


def test_ipv6_address_is_written_as_in_a_url() -> None:
    (slot,) = listeners.open_listeners(settings("server.bind=[::1]:0"), 1)
    assert listeners.address(slot.client).startswith("[::1]:")
    for each in slot:
        each.close()


def test_port_that_a_leaving_worker_still_has_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as old:
        port = old.getsockname()[1]

        def child() -> int:
            old.accept()  # holds the port until somebody connects, then ends
            return 0

        leaving = children.fork(child)
    peer = socket.create_connection(("127.0.0.1", port))
    slots = listeners.open_listeners(settings(f"server.bind=127.0.0.1:{port}"), 1, patience_s=30.0)
    assert listeners.address(slots[0].client).endswith(str(port))
    peer.close()
    assert leaving.reap() == 0
    for each in slots[0]:
        each.close()


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (lambda: 7, 7),
        (lambda: 1 // 0, 1),
        (lambda: (_ for _ in ()).throw(ConfigError("no")), 2),
        (lambda: os.kill(os.getpid(), signal.SIGINT), -signal.SIGINT),
    ],
)
def test_child_ends_with_its_code_whatever_happens(main, code: int) -> None:  # type: ignore[no-untyped-def]
    child = children.fork(main)
    assert child.reap() == code
    child_pid = child.pid
    assert not alive(child_pid)


def test_child_destroys_nothing_that_it_inherits() -> None:
    parent = os.getpid()

    class Handle:
        def __init__(self) -> None:
            self.itself = self  # so that only the collector finds it

        def __del__(self) -> None:
            if os.getpid() != parent:
                os._exit(99)

    def main() -> int:
        gc.collect()
        return 7 if gc.isenabled() else 8

    Handle()
    assert children.fork(main).reap() == 7
    assert gc.isenabled()


def test_signal_sent_right_after_fork_is_not_lost() -> None:
    for _ in range(20):
        child = children.fork(lambda: signal.pause() or 0)  # type: ignore[func-returns-value]
        child.send(signal.SIGTERM)
        assert child.reap() == -signal.SIGTERM


def test_grandchild_of_a_killed_process_gets_term() -> None:
    reading, writing = os.pipe()

    def middle() -> int:
        grandchild = children.fork(lambda: signal.pause() or 0)  # type: ignore[func-returns-value]
        os.write(writing, str(grandchild.pid).encode())
        signal.pause()
        return 0

    child = children.fork(middle)
    pid = int(os.read(reading, 32))
    assert alive(pid)
    child.send(signal.SIGKILL)
    child.reap()
    wait_until(lambda: not alive(pid), "PDEATHSIG")
    os.close(reading)
    os.close(writing)
