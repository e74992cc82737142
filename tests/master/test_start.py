"""What a start needs, what stops it, and what it says."""

from __future__ import annotations

import functools
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.master.run import ANY_PORTS, Run, new_run, who
from tests.support import alive, run_zpush, wait_until


def refused(run: Run, *overrides: str, **options: object) -> str:
    """Starts, expects exit 1, returns what it said."""
    run.start(*overrides, **options)  # type: ignore[arg-type]
    out, err = run.output()
    assert run.process is not None
    assert run.process.returncode == 1, (out, err)
    assert out == ""
    return err


def test_says_where_to_connect_once_everything_is_ready(run: Run) -> None:
    run.start("server.workers=2")
    where = run.ready()["addresses"]
    run.end(signal.SIGINT)
    out, err = run.output()
    assert err == ""
    assert "is ready" in out.splitlines()[0] and "2 workers, 1 processor" in out
    assert f"ws://{where['clients']}/ws?client=ID" in out
    assert f"http://{where['api']}/v1/push" in out
    assert f"push --api http://{where['api']} --client demo hello" in out


def test_port_0_is_chosen_once_for_all_slots(run: Run) -> None:
    run.start("server.workers=3")
    where = run.ready()["addresses"]
    assert all(not each.endswith(":0") for each in (where["clients"], where["api"], *where["peers"]))
    assert len(set(where["peers"])) == 3
    wait_until(lambda: len({who(where["clients"])["slot"] for _ in range(20)}) == 3, "all slots answer on one port")


@pytest.mark.parametrize("setting", ["server.bind", "api.bind"])
def test_port_that_is_taken_is_named_with_a_remedy(run: Run, setting: str) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even one that would share it
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(run, f"{setting}=127.0.0.1:{port}")
    assert f"{setting}: cannot listen on 127.0.0.1 port {port}" in said
    assert "stop that one" in said


def test_peers_port_that_is_taken_is_named(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"peers.port: cannot listen on 127.0.0.1 port {port}" in refused(run, f"peers.port={port}")


def test_address_of_another_machine_is_named(run: Run) -> None:
    said = refused(run, "peers.bind=192.0.2.1", "peers.secret=0123456789abcdef")
    assert "peers.port: cannot listen on 192.0.2.1" in said
    assert "address of this machine" in said


@pytest.mark.parametrize("path", ["/proc/zpush", "/dev/null"])
def test_data_directory_that_cannot_be_written_is_named(run: Run, path: str) -> None:
    assert f"server.data_dir {path}" in refused(run, f"server.data_dir={path}")


def test_data_directory_of_a_live_run_is_refused_with_its_pid(run: Run) -> None:
    run.start()
    run.ready()
    with new_run() as second:
        said = refused(second, f"server.data_dir={run.directory}")
    assert run.process is not None
    assert f"in use by a running zpush, pid {run.process.pid}" in said
    assert run.status() is not None, "the first one is not disturbed"


def test_control_socket_of_a_live_run_is_refused_with_its_pid(run: Run) -> None:
    run.start()
    run.ready()
    with new_run() as second:
        said = refused(second, f"server.control_socket={run.directory}/control.sock")
    assert run.process is not None
    assert f"in use by a running zpush, pid {run.process.pid}" in said
    assert run.status() is not None


def test_file_in_the_control_sockets_place_is_not_removed(run: Run) -> None:
    precious = run.directory / "notes"
    precious.write_text("keep me")
    assert "not a socket is in the way" in refused(run, f"server.control_socket={precious}")
    assert precious.read_text() == "keep me"


def test_all_that_a_dead_run_left_is_taken_over(run: Run) -> None:
    run.start()
    first = run.ready()
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert (run.directory / "control.sock").exists()
    run.output()
    run.start(
        f"server.bind={first['addresses']['clients']}", f"api.bind={first['addresses']['api']}"
    )  # at once: its children may still be there
    second = run.ready()
    assert second["pid"] != first["pid"]
    assert second["addresses"]["clients"] == first["addresses"]["clients"]
    assert not alive(first["valkey"]["pid"]), "two servers never write the same data"


def test_secret_is_generated_once_for_the_owner_only(run: Run) -> None:
    run.start()
    run.ready()
    path = run.directory / "peers.secret"
    secret = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secret.strip()) >= 32
    run.end(signal.SIGINT)
    out, err = run.output()
    assert secret.decode().strip() not in out + err + run.log.read_text()
    run.start()
    run.ready()
    assert path.read_bytes() == secret


def test_configuration_that_children_refuse_ends_the_start_with_2(run: Run) -> None:
    run.set_mode("refuse")
    run.start("server.workers=2")
    out, _ = run.output()
    assert run.process is not None
    assert run.process.returncode == 2
    assert out == ""
    assert "auth.keys_file" in run.logged("refused")[0]["reason"]


@pytest.mark.parametrize(
    ("command", "settings", "reason"),
    [
        ("serve", ["auth.mode=jwt", "auth.keys_file=/nowhere"], "/nowhere: cannot read the secret"),
        ("serve", ["auth.mode=python:nowhere:f"], "cannot import nowhere"),
        ("serve", ["api.keys_file=/nowhere"], "/nowhere: cannot read the secret"),
        ("serve", ["queue.url=redis+sentinel://h"], "redis+sentinel"),
        ("process", ["registry.url=redis://h?odd=1", "queue.url=redis://h"], "odd"),
        ("process", ["registry.url=redis://h", "queue.url=redis://h", "queue.password_file=/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_is_started(
    tmp_path: Path, command: str, settings: list[str], reason: str
) -> None:
    log = tmp_path / "log"
    ours = ["auth.mode=dev", "peers.secret=0123456789abcdef", f"server.data_dir={tmp_path}", f"log.file={log}"]
    sets = [part for each in (*ANY_PORTS, *ours, *settings) for part in ("--set", each)]
    done = run_zpush(command, *sets)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("zpush: ") and reason in line
    assert "started" not in log.read_text()
    assert not (tmp_path / "valkey.log").exists()


def test_processors_alone_need_the_server_whose_queue_they_read(run: Run) -> None:
    assert "no `zpush serve` runs on" in refused(run, processors_only=True)


def test_processors_alone_run_beside_a_server_in_any_number(run: Run) -> None:
    run.start()
    run.ready()
    with new_run() as second, new_run() as third:
        for each in (second, third):
            each.start(f"server.data_dir={run.directory}", "processor.instances=2", processors_only=True)
            wait_until(functools.partial(each.logged, "ready"), "its processors are ready")
        for each in (second, third):
            assert each.end(signal.SIGTERM) == 0
            assert each.output()[0].strip().endswith("2 processors")
    assert run.status() is not None
    assert os.path.exists(run.directory / "control.sock")


def test_nothing_is_left_behind_but_data(run: Run) -> None:
    run.start()
    run.ready()
    assert run.end(signal.SIGTERM) == 0
    left = {path.name for path in Path(run.directory).iterdir()}
    assert left <= {"valkey", "valkey.log", "peers.secret", "zpush.lock", "log", "events"}
