"""Processes that die, crash, hang or leave: who takes their place, and who answers meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.master.run import Run, connect, tell, who
from tests.support import alive, free_port, halt, wait_until
from zpush.master import supervisor
from zpush.master.backoff import Timings
from zpush.master.reactor import Reactor
from zpush.scoreboard import PROCESSOR, Scoreboard

ONE = ("server.workers=1", "processor.instances=0")
TWO = ("server.workers=2", "processor.instances=0")


def state_of(status: dict[str, Any], slot: int = 0) -> str:
    return str(status["workers"][slot]["state"])


def kill_worker(status: dict[str, Any], slot: int, number: int = signal.SIGKILL) -> int:
    pid = int(status["workers"][slot]["pid"])
    os.kill(pid, number)
    return pid


def test_worker_has_its_own_sockets_with_their_options_and_nothing_else(run: Run) -> None:
    run.start("server.workers=4", "connections.notsent_lowat_bytes=20000")
    answer = who(run.ready()["addresses"]["clients"])
    assert (answer["lowat"], answer["nodelay"]) == (20000, 1)
    # 0, 1, 2, the log, three listeners, the ready pipe, this connection, /proc/self/fd itself.
    assert answer["fds"] == 10


def test_dead_worker_is_replaced_and_counted(run: Run) -> None:
    run.start(*ONE)
    before = run.ready()
    first = who(before["addresses"]["clients"])["pid"]
    tell(before["addresses"]["clients"], "die")
    after = run.until(lambda s: s["workers"][0]["restarts"] == 1 and state_of(s) == "ready", "a new worker")
    assert after["workers"][0]["pid"] != first
    assert after["addresses"] == before["addresses"]
    assert who(after["addresses"]["clients"])["pid"] == after["workers"][0]["pid"]
    assert after["totals"]["restarts"] == 1
    assert after["totals"]["outcomes"]["delivered"] == 1, "what the dead one counted is kept"
    assert [line["how"] for line in run.logged("worker 0 died")] == ["exit 9"]


def test_connection_made_while_a_worker_is_replaced_waits_for_the_next(run: Run) -> None:
    run.start(*ONE)
    status = run.ready()
    address = status["addresses"]["clients"]
    pid = status["workers"][0]["pid"]
    halt(pid)  # it accepts nothing from now on
    with connect(address) as waiting:
        waiting.sendall(b"who")
        os.kill(pid, signal.SIGKILL)
        answer = waiting.recv(4096)
    assert answer, "the kept socket held the connection"
    assert str(pid) not in answer.decode()


def test_processor_is_replaced(run: Run) -> None:
    run.start("server.workers=1", "processor.instances=2")
    os.kill(run.ready()["processors"][1]["pid"], signal.SIGKILL)
    status = run.until(lambda s: s["processors"][1]["restarts"] == 1 and s["state"] == "ready", "a new processor")
    assert status["processors"][0]["restarts"] == 0


def test_worker_that_dies_at_once_ends_in_a_slow_retry_with_one_line(run: Run) -> None:
    run.start(*ONE)
    status = run.ready()
    run.set_mode("crash")
    killed_s = time.monotonic()
    kill_worker(status, 0)
    run.until(lambda s: s["workers"][0]["restarts"] >= 7, "it is tried again and again")
    assert len(run.logged("worker 0 keeps dying")) == 1
    # Waits: 0, 50, 100, 200, then 400 ms each.
    assert time.monotonic() - killed_s >= 1.55, "a busy loop"
    assert [line["retry_s"] for line in run.logged("worker 0 died")] == [0.0, 0.05, 0.1, 0.2]
    run.set_mode("serve")
    status = run.until(lambda s: s["state"] == "ready", "the cause has passed")
    assert who(status["addresses"]["clients"])["slot"] == 0


def test_the_same_crash_again_is_a_line_without_its_traceback(run: Run) -> None:
    run.start(*ONE)
    status = run.ready()
    run.set_mode("bug")
    kill_worker(status, 0)
    run.until(lambda s: s["workers"][0]["restarts"] >= 4, "it is tried again and again", 30.0)
    [crash] = run.logged("crashed")
    assert "ZeroDivisionError" in crash["exception"]
    again = run.logged("crashed again")
    assert len(again) >= 2
    assert all("exception" not in line and "ZeroDivisionError: in process" in line["reason"] for line in again)


def test_slot_that_keeps_dying_takes_no_connections_until_it_serves_again(run: Run) -> None:
    run.start(*TWO, slow_s=60.0, backoff_s=60.0)
    status = run.ready()
    address = status["addresses"]["clients"]
    run.set_mode("crash")
    kill_worker(status, 0)
    run.until(lambda s: state_of(s) == "waiting", "the second death in a row")
    run.set_mode("serve")
    assert {who(address)["slot"] for _ in range(40)} == {1}
    with pytest.raises(ConnectionRefusedError):
        connect(status["addresses"]["peers"][0])


def test_slot_is_back_in_its_groups_when_its_worker_is_ready(run: Run) -> None:
    run.start(*TWO)
    status = run.ready()
    run.set_mode("crash")
    kill_worker(status, 0)
    run.until(lambda s: s["workers"][0]["restarts"] >= 2, "the second death in a row")
    run.set_mode("serve")
    run.ready()
    address = status["addresses"]["clients"]
    wait_until(lambda: who(address)["slot"] == 0, "slot 0 answers again")
    connect(status["addresses"]["peers"][0]).close()


def test_port_taken_by_another_program_meanwhile_is_told_and_tried_again(run: Run) -> None:
    run.start(*ONE, f"peers.port={free_port()}")
    status = run.ready()
    run.set_mode("crash")
    kill_worker(status, 0)
    run.until(lambda s: s["workers"][0]["restarts"] >= 2, "the second death in a row")
    host, _, port = status["addresses"]["peers"][0].rpartition(":")
    with socket.create_server((host, int(port))):
        run.set_mode("serve")
        wait_until(lambda: run.logged("worker 0 cannot listen"), "the port is in use")
    run.ready()
    connect(status["addresses"]["peers"][0]).close()


def test_no_room_for_a_process_is_a_death_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(main: object) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(supervisor, "fork", no_room)
    reactor, board = Reactor(), Scoreboard()
    tried = supervisor.Supervisor(reactor, board, Timings(backoff_s=0.01, slow_s=0.02), 1, lambda slot: None)
    tried.add(PROCESSOR, 0, None, lambda row, ready_fd: 0)
    tried.start()
    reactor.run(lambda: tried.slots[0].restarts == 4)
    tried.stop(signal.SIGTERM)
    assert tried.all_ended
    assert not list(board.live())
    reactor.close()


def test_hung_worker_is_killed_and_its_slot_takes_no_connections_meanwhile(run: Run) -> None:
    run.start(*TWO, hung_s=1.0)
    status = run.ready()
    pid = kill_worker(status, 0, signal.SIGSTOP)
    after = run.until(lambda s: s["workers"][0]["restarts"] == 1 and s["state"] == "ready", "a new worker")
    assert after["workers"][1]["restarts"] == 0
    assert not alive(pid)
    assert [line["child"] for line in run.logged("worker 0 hangs, killed")] == [pid]
    assert run.logged("worker 0 died")[0]["how"] == "SIGKILL"


def test_worker_that_never_becomes_ready_is_killed(run: Run) -> None:
    run.set_mode("mute")
    run.start(*ONE, start_s=0.3)
    wait_until(lambda: run.logged("worker 0 hangs, killed"), "it is taken for hung")
    run.set_mode("serve")
    run.ready()


def test_workers_are_not_blamed_for_a_pause_of_the_whole_machine(run: Run) -> None:
    run.start(*ONE, hung_s=2.0)  # so long the worker may take, too, when the master goes on
    status = run.ready()
    pids = [run.process.pid, status["workers"][0]["pid"]]  # type: ignore[union-attr]
    for pid in pids:
        halt(pid)
    # Nothing can be awaited while all are stopped but the time itself.
    paused_until = time.monotonic() + 2.5
    wait_until(lambda: time.monotonic() > paused_until, "the pause")
    os.kill(pids[0], signal.SIGCONT)
    first = run.status()
    os.kill(pids[1], signal.SIGCONT)
    assert first is not None
    assert first["workers"][0]["heartbeat_age_s"] > 2.0, "the heartbeat was too old"
    run.until(lambda s: s["workers"][0]["heartbeat_age_s"] < 0.3, "the worker goes on")
    assert run.ready()["workers"][0]["restarts"] == 0


def test_worker_that_leaves_by_itself_takes_no_new_clients(run: Run) -> None:
    run.start(*TWO)
    status = run.ready()
    address = status["addresses"]["clients"]
    tell(address, "leave")
    left = run.until(lambda s: "leaving" in (state_of(s), state_of(s, 1)), "one leaves")
    slot = next(n for n in (0, 1) if state_of(left, n) == "leaving")
    assert left["state"] == "degraded"
    assert {who(address)["slot"] for _ in range(40)} == {1 - slot}
    connect(status["addresses"]["peers"][slot]).close()  # and serves everything else to its end
    kill_worker(left, slot, signal.SIGTERM)
    run.until(lambda s: s["workers"][slot]["restarts"] == 1 and s["state"] == "ready", "the next worker")
    wait_until(lambda: who(address)["slot"] == slot, "its slot answers again")


def test_a_master_that_waits_uses_no_cpu(run: Run) -> None:
    run.start(*ONE, check_s=1.0)
    run.ready()
    assert run.process is not None

    def cpu_ticks() -> int:
        fields = Path(f"/proc/{run.process.pid}/stat").read_text().rpartition(")")[2].split()  # type: ignore[union-attr]
        return int(fields[11]) + int(fields[12])

    before, until = cpu_ticks(), time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > until, "a second")
    assert cpu_ticks() - before <= 5, "more than 50 ms of CPU in a second of nothing"
