"""TTIN, TTOU and server.workers: one worker more, one fewer, whatever the others are doing."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.master.run import Run, connect, tell, who
from tests.support import free_port, wait_until
from zpush import config
from zpush.master import workers
from zpush.master.backoff import Timings
from zpush.master.reactor import Reactor
from zpush.master.supervisor import Supervisor
from zpush.master.workers import Workers
from zpush.scoreboard import Scoreboard

ONE = ("server.workers=1", "processor.instances=0")
TWO = ("server.workers=2", "processor.instances=0")
LONG = "server.drain_window=1h"


def slots(status: dict[str, Any], state: str = "ready") -> list[int]:
    return [each["slot"] for each in status["workers"] if each["state"] == state]


def until_slots(run: Run, *expected: int) -> dict[str, Any]:
    """These are ready, and there are no others."""
    wanted = list(expected)
    return run.until(lambda s: slots(s) == wanted == [w["slot"] for w in s["workers"]], f"workers {wanted}")


def answering(address: str) -> set[int]:
    return {who(address)["slot"] for _ in range(40)}


def test_ttin_adds_a_worker_that_answers_on_the_same_ports(run: Run) -> None:
    run.start(*ONE, "connections.notsent_lowat_bytes=20000")
    before = run.ready()["addresses"]
    run.signal(signal.SIGTTIN)
    after = until_slots(run, 0, 1)
    where = after["addresses"]
    assert (where["clients"], where["api"], where["peers"][:1]) == (before["clients"], before["api"], before["peers"])
    wait_until(lambda: who(where["clients"])["slot"] == 1, "the new one answers")
    assert who(where["clients"])["lowat"] == 20000
    connect(where["peers"][1]).close()
    assert where["peers"][1] != where["peers"][0]
    assert [(line["workers"], line["why"]) for line in run.logged("worker 1 is added")] == [(2, "TTIN")]
    assert after["state"] == "ready"


def test_new_worker_takes_no_connections_before_it_is_ready(run: Run) -> None:
    run.start(*ONE)
    address = run.ready()["addresses"]["clients"]
    run.set_mode("late")
    run.signal(signal.SIGTTIN)
    run.until(lambda s: slots(s, "starting") == [1], "it is starting")
    assert answering(address) == {0}
    (run.directory / "go").touch()
    until_slots(run, 0, 1)


def test_signals_that_mean_nothing_here_end_nothing(run: Run) -> None:
    run.start(*TWO)
    before = run.ready()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        run.signal(number)
        os.kill(before["workers"][1]["pid"], number)
    wait_until(lambda: len(run.logged("signal without a meaning")) == 2, "both are logged")
    assert {line["signal"] for line in run.logged("signal without a meaning")} == {"SIGUSR1", "SIGUSR2"}
    assert [w["pid"] for w in run.ready()["workers"]] == [w["pid"] for w in before["workers"]]


def test_ttou_lets_the_last_one_drain_without_new_connections(run: Run) -> None:
    run.set_mode("slow")
    run.start(*TWO, LONG)
    where = run.ready()["addresses"]
    run.signal(signal.SIGTTOU)
    left = run.until(lambda s: slots(s, "retiring") == [1], "it retires")
    assert left["state"] == "ready", "nothing is wrong"
    assert answering(where["clients"]) == {0}
    connect(where["peers"][1]).close()  # what its clients are sent still reaches it
    wait_until(lambda: run.events().count("worker 1 SIGTERM valkey=True") == 1, "it was asked once")
    (run.directory / "go").touch()
    until_slots(run, 0)
    with pytest.raises(ConnectionRefusedError):
        connect(where["peers"][1])
    assert run.status()["totals"]["restarts"] == 0  # type: ignore[index]
    assert [(line["workers"], line["why"]) for line in run.logged("worker 1 retires")] == [(1, "TTOU")]
    assert [line["how"] for line in run.logged("worker 1 has retired")] == ["exit 0"]
    assert not run.logged("worker 1 died")


def test_what_a_retired_worker_counted_is_kept(run: Run) -> None:
    run.start(*TWO)
    address = run.ready()["addresses"]["clients"]
    wait_until(lambda: who(address)["slot"] == 1, "the second one has counted something")
    counted = run.status()["totals"]["outcomes"]["delivered"]  # type: ignore[index]
    run.signal(signal.SIGTTOU)
    assert until_slots(run, 0)["totals"]["outcomes"]["delivered"] == counted


def test_last_worker_stays(run: Run) -> None:
    run.start(*ONE)
    address = run.ready()["addresses"]["clients"]
    run.signal(signal.SIGTTOU)
    wait_until(lambda: run.logged("cannot change the workers"), "it is refused")
    assert "one must stay" in run.logged("cannot change the workers")[0]["reason"]
    assert answering(address) == {0}
    assert "worker 0 SIGTERM valkey=True" not in run.events()


def test_number_is_free_again_only_when_its_worker_has_ended(run: Run) -> None:
    run.set_mode("slow")
    run.start(*TWO, LONG)
    run.ready()
    run.signal(signal.SIGTTOU)
    run.until(lambda s: slots(s, "retiring") == [1], "one retires")
    run.signal(signal.SIGTTIN)
    run.until(lambda s: slots(s) == [0, 2], "the next number is used")
    (run.directory / "go").touch()
    until_slots(run, 0, 2)
    run.signal(signal.SIGTTIN)
    status = until_slots(run, 0, 1, 2)
    wait_until(lambda: answering(status["addresses"]["clients"]) == {0, 1, 2}, "all answer")


def test_peers_port_that_is_taken_is_told_and_nothing_grows(run: Run) -> None:
    port = free_port(2)
    with socket.create_server(("127.0.0.1", port + 1)):
        run.start(*ONE, f"peers.port={port}")
        run.ready()
        run.signal(signal.SIGTTIN)
        wait_until(lambda: run.logged("cannot change the workers"), "it is refused")
    [line] = run.logged("cannot change the workers")
    assert f"peers.port: cannot listen on 127.0.0.1 port {port + 1}" in line["reason"]
    assert slots(run.ready()) == [0]
    run.signal(signal.SIGTTIN)
    assert until_slots(run, 0, 1)["addresses"]["peers"] == [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]


def test_growing_and_shrinking_while_a_worker_is_not_there(run: Run) -> None:
    run.start(*TWO, slow_s=60.0, backoff_s=60.0)
    status = run.ready()
    address = status["addresses"]["clients"]
    run.set_mode("crash")
    for each in status["workers"]:
        os.kill(each["pid"], signal.SIGKILL)
    run.until(lambda s: slots(s, "waiting") == [0, 1], "nobody is left, and nobody soon")
    run.set_mode("serve")
    run.signal(signal.SIGTTIN)
    run.until(lambda s: slots(s) == [2], "the new one is there at once")
    assert answering(address) == {2}
    for left in ([0, 1], [0]):
        run.signal(signal.SIGTTOU)
        run.until(lambda s, left=left: [w["slot"] for w in s["workers"]] == left, f"workers {left}")
    assert run.logged("worker 1 retires"), "one that waits for its next try is gone at once"
    run.signal(signal.SIGTTIN)
    assert run.until(lambda s: slots(s) == [1], "and back")
    assert answering(address) == {1}


def test_worker_that_does_not_retire_is_ended(run: Run) -> None:
    run.set_mode("stubborn")
    run.start(*TWO, "server.drain_window=100ms", drain_grace_s=0.1, quick_s=0.1)
    run.ready()
    run.signal(signal.SIGTTOU)
    until_slots(run, 0)
    assert len(run.logged("worker 1 takes too long to retire")) == 1
    assert [line["how"] for line in run.logged("worker 1 has retired")] == ["SIGKILL"]
    run.end(signal.SIGINT)  # the other one would outlive a master that is killed


def test_end_of_the_run_does_not_hurry_a_worker_that_retires(run: Run) -> None:
    run.set_mode("slow")
    run.start(*TWO, LONG)
    run.ready()
    run.signal(signal.SIGTTOU)
    run.until(lambda s: slots(s, "retiring") == [1], "one retires")
    wait_until(lambda: "worker 1 SIGTERM valkey=True" in run.events(), "it was told")
    run.signal(signal.SIGTERM)
    wait_until(lambda: "worker 0 SIGTERM valkey=True" in run.events(), "the other one is told")
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        run.signal(number)  # too late
    (run.directory / "go").touch()
    assert run.end(signal.SIGCONT) == 0
    assert run.events().count("worker 1 SIGTERM valkey=True") == 1
    assert not run.logged("cannot change the workers") and not run.logged("worker 2 is added")


def test_signals_before_the_start_is_over_count(run: Run) -> None:
    run.set_mode("late")
    run.start(*ONE)
    run.until(lambda s: True, "the master answers")
    run.signal(signal.SIGTTIN)
    run.until(lambda s: len(s["workers"]) == 2, "one more")
    run.signal(signal.SIGTTOU)
    run.until(lambda s: len(s["workers"]) == 1, "one fewer")
    (run.directory / "go").touch()
    assert slots(run.ready()) == [0]


def test_children_do_not_stop_at_signals_that_are_the_masters(run: Run) -> None:
    run.start("server.workers=1")
    status = run.ready()
    for each in (*status["workers"], *status["processors"]):
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            os.kill(each["pid"], number)
    assert who(status["addresses"]["clients"])["slot"] == 0
    run.until(lambda s: s["processors"][0]["heartbeat_age_s"] < 0.1, "the processor goes on")


def test_nothing_is_left_of_workers_that_came_and_went(run: Run) -> None:
    run.start(*ONE)
    address = run.ready()["addresses"]["clients"]

    def open_files() -> int:
        return len(os.listdir(Path(f"/proc/{run.process.pid}/fd")))  # type: ignore[union-attr]

    before = open_files()
    for _ in range(3):
        run.signal(signal.SIGTTIN)
        until_slots(run, 0, 1)
        tell(address, "die")  # one of them
        run.signal(signal.SIGTTOU)
        until_slots(run, 0)
    wait_until(lambda: open_files() == before, "all that was opened is closed")
    assert answering(address) == {0}


def test_processors_alone_have_no_workers_to_change(run: Run) -> None:
    url = "redis://127.0.0.1:1"
    run.start(
        f"registry.url={url}", f"queue.url={url}", "auth.mode=dev", "peers.secret=0123456789abcdef",
        processors_only=True,
    )  # fmt: skip
    wait_until(lambda: run.logged("ready"), "it is ready")
    run.signal(signal.SIGTTIN)
    wait_until(lambda: run.logged("cannot change the workers"), "it is refused")
    assert "processors only" in run.logged("cannot change the workers")[0]["reason"]


@pytest.fixture
def three() -> Iterator[Workers]:
    """Three of at most four, not started."""
    reactor, timings = Reactor(), Timings()
    supervisor = Supervisor(reactor, Scoreboard(), timings, 1, lambda slot: None)
    made = Workers(supervisor, timings, lambda *arguments: 0)
    made.open(settings("server.workers=3"), 0.0)
    yield made
    supervisor.close()
    reactor.close()


def settings(*overrides: str) -> config.Settings:
    any_port = ("server.bind=127.0.0.1:0", "api.bind=127.0.0.1:0", "peers.port=0")
    return config.load(None, {}, [*any_port, *overrides])


def test_most_and_fewest(three: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_WORKERS", 4)
    assert three.resize(4, settings(), "test") == ""
    assert "at most 4" in three.resize(5, settings(), "test")
    assert three.count == 4
    three.slots[3].retiring = True  # its process is still there
    assert "about to retire" in three.resize(4, settings(), "test")
    assert three.resize(1, settings(), "test") == ""
    assert "one must stay" in three.resize(0, settings(), "test")
    assert three.count == 1


def test_ports_end_somewhere(three: Workers) -> None:
    assert "past 65535" in three.resize(4, settings("peers.port=65533", "server.workers=1"), "test")
    assert three.count == 3
