"""HUP and `zpush reload`: what changes in a running zpush, what waits for a restart, and what changes nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.master.run import Run, connect, who
from tests.support import ROOT, free_port, wait_until
from zpush import config
from zpush.config.settings import SECTIONS, SETTINGS
from zpush.errors import ConfigError
from zpush.master import rehearsal, reload
from zpush.master.reactor import Reactor

ONE = ("server.workers=1", "processor.instances=0")
REFUSED = "reload refused, the old settings stay"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "zpush.toml"
    path.write_text("")
    return path


def done(changed: list[str], needs_restart: list[str] | None = None) -> dict[str, Any]:
    return {"reloaded": True, "changed": changed, "needs_restart": needs_restart or [], "problems": []}


def reloads(run: Run, who: str = "worker 0") -> int:
    return run.events().count(f"{who} reloaded")


def test_new_settings_reach_workers_but_for_what_needs_a_restart(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    address = run.ready()["addresses"]["clients"]
    before = who(address)
    file.write_text('[connections]\nmax = 7\nmax_age = "10m"\nnotsent_lowat_bytes = 20000\n')
    assert run.reload() == done(
        ["connections.max", "connections.max_age", "connections.notsent_lowat_bytes"], ["connections.max"]
    )
    wait_until(lambda: reloads(run) == 1, "the worker has heard it")
    after = who(address)
    assert (after["pid"], after["max_age_s"], after["max"]) == (before["pid"], 600.0, before["max"])
    wait_until(lambda: who(address)["lowat"] == 20000, "connections have it from now on")


def test_connections_go_on_during_a_reload(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    address = run.ready()["addresses"]["clients"]
    with connect(address) as connection:
        assert run.reload() == done([])
        connection.sendall(b"who")
        assert b'"slot": 0' in connection.recv(4096)


def test_a_worker_of_later_has_what_its_siblings_have(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    status = run.ready()
    old = who(status["addresses"]["clients"])
    file.write_text('[connections]\nmax = 7\nmax_age = "10m"\n')
    run.reload()
    os.kill(status["workers"][0]["pid"], signal.SIGKILL)
    run.signal(signal.SIGTTIN)
    run.until(lambda s: [w["state"] for w in s["workers"]] == ["ready", "ready"], "both are new")
    found: dict[int, tuple[float, int]] = {}

    def both() -> bool:
        answer = who(status["addresses"]["clients"])
        found[answer["slot"]] = answer["max_age_s"], answer["max"]
        return len(found) == 2

    wait_until(both, "both answer")
    assert set(found.values()) == {(600.0, old["max"])}


def test_worker_that_is_starting_during_a_reload_does_not_miss_it(run: Run, file: Path) -> None:
    run.set_mode("late")
    run.start(*ONE, config=file)
    run.until(lambda s: s["workers"][0]["state"] == "starting", "it has read the old settings")
    file.write_text('[connections]\nmax_age = "10m"\n')
    run.reload()
    assert reloads(run) == 0, "it cannot hear it yet"
    (run.directory / "go").touch()
    address = run.ready()["addresses"]["clients"]
    wait_until(lambda: reloads(run) == 1, "it is told again")
    assert who(address)["max_age_s"] == 600.0


def test_what_needs_a_restart_is_named_until_it_is_taken_back(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text('[queue]\npartitions = 3\n[log]\nlevel = "warning"\n')
    assert run.reload() == done(["queue.partitions", "log.level"], ["queue.partitions"])
    assert run.reload() == done(["queue.partitions"], ["queue.partitions"])
    status = run.status()
    assert status is not None and status["reload"]["needs_restart"] == ["queue.partitions"]
    file.write_text("")
    assert run.reload() == done(["log.level"])


def test_new_log_level_is_in_force_at_once(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text('[log]\nlevel = "error"\n')
    run.reload()
    assert not run.logged("reloaded")


def test_bad_file_keeps_the_old_settings_and_is_not_passed_on(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    before = run.ready()
    file.write_text('[connections]\nmax_age = "10m"\n\n[log]\nlevel = "loud"\n')
    error = run.reload()["error"]
    assert error.startswith(f'{file}:5: log.level is "loud"; allowed is')
    run.signal(signal.SIGHUP)
    wait_until(lambda: [line["reason"] for line in run.logged(REFUSED)] == [error] * 2, "HUP says the same")
    assert who(before["addresses"]["clients"])["max_age_s"] == 1800.0
    assert reloads(run) == 0
    after = run.ready()
    assert after["workers"][0]["pid"] == before["workers"][0]["pid"]
    assert after["reload"]["error"] == error
    file.write_text('[connections]\nmax_age = "10m"\n')
    assert run.reload() == done(["connections.max_age"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[auth]\nmode = "cookie"\nkeys_file = "/nowhere"\n', "/nowhere: cannot read the secret"),
        ('[api]\nkeys_file = "/nowhere"\n', "/nowhere: cannot read the secret"),
        ('[auth]\nmode = "python:nowhere:f"\n', "cannot import nowhere"),
    ],
)
def test_files_that_settings_name_are_read_first(run: Run, file: Path, text: str, error: str) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text(text)
    assert error in run.reload()["error"]
    assert len(run.logged(REFUSED)) == 1
    assert reloads(run) == 0


def test_log_file_that_cannot_be_opened_keeps_everything_as_it_is(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text('[connections]\nmax_age = "10m"\n')
    log = run.log.rename(run.directory / "log.1")
    run.log.mkdir()
    assert f"log.file {run.log}" in run.reload()["error"]
    assert REFUSED in log.read_text(), "the old log is still in use"
    assert reloads(run) == 0
    run.log.rmdir()
    assert run.reload() == done(["connections.max_age"])


def test_file_that_cannot_be_read_in_time_is_told(run: Run, file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    run.start(*ONE, config=file, check_files_s=0.5)
    address = run.ready()["addresses"]["clients"]
    file.write_text(f'[auth]\nmode = "cookie"\nkeys_file = "{tmp_path}/keys"\n')
    run.signal(signal.SIGHUP)
    assert who(address)["slot"] == 0, "nobody waits for it but who asked"
    assert "not read within 0.5 s" in run.reload()["error"]


def test_no_room_for_the_check_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(main: object) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(rehearsal, "fork", no_room)
    reactor, verdicts, before = Reactor(), list[object](), len(os.listdir("/proc/self/fd"))
    check = rehearsal.Rehearsal("check", rehearsal.check_files, reactor, lambda: None, 1.0)
    check.begin(load(), verdicts.append)
    reactor.run(lambda: bool(verdicts))
    assert str(verdicts[0]) == "no process to check the settings in: Resource temporarily unavailable"
    assert len(os.listdir("/proc/self/fd")) == before
    reactor.close()


def test_reloads_at_once_are_all_answered_by_one_that_began_later(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text('[connections]\nmax_age = "10m"\n')
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(run.reload())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done(["connections.max_age"]) in answers
    assert len(answers) == 5 and all(answer["reloaded"] for answer in answers)
    assert len(run.logged("reloaded")) < 5, "who asks while one is under way shares the next"


def test_caller_that_leaves_before_the_answer_disturbs_nothing(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(run.directory / "control.sock"))
        connection.sendall(b'{"cmd": "reload"}\n')
    wait_until(lambda: run.logged("reloaded"), "it is done all the same")
    assert run.reload() == done([])


def test_workers_in_the_file_are_added_and_retire(run: Run, file: Path) -> None:
    file.write_text("[server]\nworkers = 1\n")
    run.start("processor.instances=0", config=file)
    run.ready()
    for count in (3, 1):
        file.write_text(f"[server]\nworkers = {count}\n")
        assert run.reload() == done(["server.workers"])
        run.until(
            lambda s, count=count: [w["slot"] for w in s["workers"] if w["state"] == "ready"] == list(range(count)),
            f"{count} workers",
        )
    assert [line["why"] for line in run.logged("worker 2 is added")] == ["server.workers"]
    run.signal(signal.SIGTTIN)
    run.until(lambda s: len(s["workers"]) == 2, "one more by hand")
    assert run.reload() == done([])
    assert len(run.ready()["workers"]) == 2, "it stays: the file says nothing new"


def test_workers_that_cannot_be_added_are_told(run: Run, file: Path) -> None:
    port = free_port(2)
    with socket.create_server(("127.0.0.1", port + 1)):
        file.write_text("[server]\nworkers = 1\n")
        run.start("processor.instances=0", f"peers.port={port}", config=file)
        run.ready()
        file.write_text("[server]\nworkers = 2\n")
        [problem] = run.reload()["problems"]
    assert f"peers.port: cannot listen on 127.0.0.1 port {port + 1}" in problem
    assert len(run.ready()["workers"]) == 1


def test_hup_opens_the_log_anew_in_every_process(run: Run) -> None:
    run.start("server.workers=1")
    before = run.ready()
    rotated = run.log.rename(run.directory / "log.1")
    run.signal(signal.SIGHUP)
    wait_until(lambda: run.logged("reloaded"), "the master writes to the new file")

    def has_it_open(pid: int) -> bool:
        return any(each.resolve() == run.log for each in Path(f"/proc/{pid}/fd").iterdir())

    # The processor has no handler of its own: the signal must not end it.
    wait_until(lambda: has_it_open(before["processors"][0]["pid"]), "and so does a child")
    after = run.ready()
    assert after["processors"] and after["processors"][0]["pid"] == before["processors"][0]["pid"]
    assert "reloaded" not in rotated.read_text()


def test_log_is_opened_anew_even_if_the_settings_are_bad(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text("no\n")
    run.log.rename(run.directory / "log.1")
    run.reload()
    assert len(run.logged(REFUSED)) == 1


def test_nothing_is_reloaded_at_the_end(run: Run, file: Path) -> None:
    run.set_mode("slow")
    run.start(*ONE, "server.drain_window=1h", config=file)
    run.ready()
    run.signal(signal.SIGTERM)
    run.until(lambda s: s["state"] == "ending", "the drain has begun")
    assert run.reload() == {"error": "zpush is ending"}
    (run.directory / "go").touch()
    assert run.end(signal.SIGCONT) == 0


def test_kill_of_the_master_ends_a_check_that_is_under_way(run: Run, file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    run.start(*ONE, config=file)
    run.ready()
    file.write_text(f'[auth]\nmode = "cookie"\nkeys_file = "{tmp_path}/keys"\n')
    assert run.process is not None
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
    before = len(children.read_text().split())
    run.signal(signal.SIGHUP)
    wait_until(lambda: len(children.read_text().split()) == before + 1, "the check has begun")
    run.pids.update(map(int, children.read_text().split()))
    run.end(signal.SIGKILL)
    wait_until(run.all_gone, "nothing is left")


def test_reload_command_tells_what_changed_or_what_is_wrong(run: Run, file: Path) -> None:
    run.start(*ONE, config=file)
    run.ready()
    file.write_text('[registry]\nprefix = "x"\n[connections]\nmax_age = "10m"\n')
    assert run.command("reload") == (
        0,
        "reloaded\nchanged: connections.max_age\nneeds a restart: registry.prefix\n",
        "",
    )
    file.write_text("[connections]\nmax_age = 0\n")
    code, out, err = run.command("reload")
    assert (code, out) == (2, "")
    assert err.startswith(f"zpush: the running zpush keeps its settings: {file}:2: connections.max_age is 0")
    assert err.count("\n") == 1


# What needs a restart, without a run.


def load(*overrides: str) -> config.Settings:
    return config.load(None, {}, list(overrides))


def test_every_name_is_a_settings() -> None:
    assert reload.RESTART_KEYS <= SETTINGS.keys()
    assert set(reload.RESTART_SECTIONS) <= SECTIONS.keys()


def test_operators_can_read_what_needs_a_restart() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text[text.index("| In force at once |") : text.index("What waits for a restart")]
    right = " ".join(line.split("|")[2] for line in table.splitlines() if line)
    assert {key for key in SETTINGS if f"`{key}`" in right} == reload.RESTART_KEYS
    assert {section for section in SECTIONS if f"`[{section}]`" in right} == set(reload.RESTART_SECTIONS)


def test_merged_settings_keep_what_needs_a_restart_and_where_it_came_from() -> None:
    current = load("queue.partitions=3", "connections.keepalive=10s")
    merged = reload.merge(current, load("connections.keepalive=20s", "connections.max=5"))
    assert (merged.queue.partitions, merged.connections.keepalive_s) == (3, 20.0)
    assert merged.connections.max == current.connections.max
    assert merged.origin("queue.partitions") == "--set"
    assert merged.origin("connections.max") == "default"


def test_settings_that_are_well_alone_but_not_with_what_stays_are_refused(tmp_path: Path) -> None:
    """Else a public server would take each client's word for who it is, until its restart."""
    open_to_all = load("server.bind=0.0.0.0:8080", "auth.mode=cookie", f"auth.keys_file={tmp_path}/keys")
    with pytest.raises(ConfigError, match=r'auth.mode "dev" only a loopback.*, and server.bind cannot change'):
        reload.merge(open_to_all, load("auth.mode=dev"))
