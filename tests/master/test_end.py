"""TERM, INT, QUIT and kill -9: in which order things end, and that nothing outlives the master."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.master.run import Run, connect
from tests.support import alive, halt, wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_children_end_first_and_valkey_last(run: Run, number: signal.Signals) -> None:
    run.start("server.workers=2")
    run.ready()
    assert run.end(number) == 0
    told = "SIGTERM" if number == signal.SIGTERM else "SIGQUIT"
    assert sorted(run.events()[-3:]) == [f"{who} {told} valkey=True" for who in ("processor 0", "worker 0", "worker 1")]
    assert [line["event"] for line in run.lines()][-2:] == ["valkey ended", "ended"]
    assert run.logged("valkey ended")[0]["how"] == "exit 0"
    assert run.all_gone()


def test_children_that_do_not_end_are_killed_after_their_time(run: Run) -> None:
    run.set_mode("stubborn")
    run.start("server.workers=2", quick_s=0.3)
    run.ready()
    began = time.monotonic()
    assert run.end(signal.SIGINT) == 0
    assert time.monotonic() - began >= 0.3
    assert run.logged("worker 0 ended")[0]["how"] == "SIGKILL"
    assert run.logged("valkey ended")[0]["how"] == "exit 0"


def test_drain_that_takes_too_long_becomes_quick(run: Run) -> None:
    run.set_mode("stubborn")
    run.start("server.drain_window=100ms", drain_grace_s=0.2, quick_s=0.2)
    run.ready()
    assert run.end(signal.SIGTERM) == 0
    assert [line["how"] for line in run.logged("ending")] == ["drain", "quick"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_makes_a_drain_quick(run: Run, second: signal.Signals) -> None:
    run.set_mode("stubborn")
    run.start("server.drain_window=1h", quick_s=0.2)
    run.ready()
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    run.until(lambda s: s["state"] == "ending", "the drain has begun")
    assert run.end(second) == 0
    assert [line["how"] for line in run.logged("ending")] == ["drain", "quick"]


def test_nobody_is_started_again_once_the_end_has_begun(run: Run) -> None:
    run.set_mode("stubborn")
    run.start("server.drain_window=1h", "server.workers=2", quick_s=0.2)
    run.ready()
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    ending = run.until(lambda s: s["state"] == "ending", "the drain has begun")
    os.kill(ending["workers"][0]["pid"], signal.SIGKILL)
    after = run.until(lambda s: s["workers"][0]["state"] == "ended", "it is not replaced")
    assert after["workers"][1]["state"] == "stopping"
    with pytest.raises(ConnectionRefusedError):
        connect(after["addresses"]["peers"][0])
    run.end(signal.SIGINT)


def test_ctrl_c_reaches_the_whole_group_and_is_no_crash(run: Run) -> None:
    run.start("server.workers=2")
    status = run.ready()
    assert run.process is not None
    halt(run.process.pid)  # so that it finds both at once, its own signal and the deaths
    for pid in (run.process.pid, *(each["pid"] for each in status["workers"])):
        os.kill(pid, signal.SIGINT)
    wait_until(lambda: not any(alive(each["pid"]) for each in status["workers"]), "workers have obeyed")
    os.kill(run.process.pid, signal.SIGCONT)
    assert run.process.wait(30) == 0
    assert run.logged("worker 0 died") == run.logged("worker 1 died") == []


def test_valkey_is_not_in_the_terminals_process_group(run: Run) -> None:
    run.start()
    status = run.ready()
    assert os.getpgid(status["valkey"]["pid"]) == status["valkey"]["pid"]
    assert os.getpgid(status["workers"][0]["pid"]) == os.getpgid(status["pid"])


def test_kill_9_of_the_master_ends_every_child(run: Run) -> None:
    run.start("server.workers=2", "processor.instances=2")
    run.ready()
    assert len(run.pids) == 5
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(run.all_gone, "workers, processors and Valkey are gone")
    assert sum("SIGTERM" in line for line in run.events()) == 4, "they were asked, and could have drained"


def test_kill_9_during_the_start_leaves_nothing(run: Run) -> None:
    run.set_mode("mute")
    run.start("server.workers=2")
    run.until(lambda s: all(each["pid"] for each in s["workers"]), "workers are starting")
    run.end(signal.SIGKILL)
    wait_until(run.all_gone, "nothing is left")
