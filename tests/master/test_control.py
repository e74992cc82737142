"""The control socket: status, and callers that do not behave. What reload does has tests of its own."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.master.run import Run, new_run
from tests.support import wait_until
from zpush.errors import Unavailable
from zpush.master import control


@pytest.fixture(scope="module")
def shared() -> Iterator[Run]:
    """One run for all tests that only talk to it."""
    with new_run() as run:
        run.start("server.workers=1")
        run.ready()
        yield run


def path(run: Run) -> str:
    return str(run.directory / "control.sock")


def raw(run: Run, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20.0)
        connection.connect(path(run))
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def test_socket_is_the_owners_only(shared: Run) -> None:
    assert stat.S_IMODE(Path(path(shared)).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("request_bytes", "error"),
    [
        (b"hello\n", "not a JSON object"),
        (b"[1]\n", "not a JSON object"),
        (b"[" * 4000 + b"\n", "not a JSON object"),
        (b"\xff\xfe\n", "not a JSON object"),
        (b'{"cmd": "fly"}\n', 'unknown "cmd"'),
        (b'{"cmd": ["status"]}\n', 'unknown "cmd"'),
        (b"{}\n", 'unknown "cmd"'),
        (b"x" * 5000, "longer than 4096"),
        (b"x" * 5000 + b"\n", "longer than 4096"),
    ],
)
def test_bad_request_gets_an_answer(shared: Run, request_bytes: bytes, error: str) -> None:
    assert error in json.loads(raw(shared, request_bytes))["error"]


def test_request_in_pieces_is_answered(shared: Run) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20.0)
        connection.connect(path(shared))
        for byte in b'{"cmd":"status"}\n':
            connection.sendall(bytes([byte]))
        assert connection.recv(65536).startswith(b'{"pid"')


def test_silent_callers_neither_block_nor_pile_up(shared: Run) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(control.MAX_CALLERS)]
    try:
        for each in silent:
            each.connect(path(shared))
        with pytest.raises(Unavailable):
            control.ask(path(shared), "status")
        for each in silent[:1]:
            each.close()
        assert wait_until(shared.status, "there is room again")
        wait_until(lambda: _closed(silent[-1]), "a silent caller is cut off", control.CALL_S + 3)
    finally:
        for each in silent:
            each.close()


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_no_master_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no running zpush answers"):
        control.ask(str(tmp_path / "control.sock"), "status")


def test_status_command(shared: Run) -> None:
    code, out, err = shared.command("status")
    assert (code, err) == (0, "")
    assert "ready" in out.splitlines()[0]
    rows = {line[:12].strip(): line for line in out.splitlines()}
    assert {"worker 0", "processor 0", "valkey"} <= rows.keys()
    assert "MiB" in rows["worker 0"]
    assert rows["worker 0"].endswith("registry away, queue away"), "these do nothing and have none"


def test_status_command_as_json(shared: Run) -> None:
    code, out, _ = shared.command("status", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["workers"][0]["state"] == "ready"
    assert document["totals"]["outcomes"]["offline"] == 0


@pytest.mark.parametrize("word", ["status", "reload"])
def test_commands_without_a_master_fail_with_one_line(run: Run, word: str) -> None:
    code, out, err = run.command(word)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and "no running zpush answers" in err
