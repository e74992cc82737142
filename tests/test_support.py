"""The tests' own tools: a Valkey that can be killed and comes back, programs that are not there."""

from __future__ import annotations

import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import Valkey, alive, end, eventually, lacking, spawn, wait_until


def ask(valkey: Valkey, command: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(valkey.socket_path))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(64)


def test_a_killed_valkey_is_gone_and_comes_back_empty(valkey: Valkey) -> None:
    assert ask(valkey, "SET k v") == b"+OK\r\n"
    pid = valkey.pid
    valkey.kill()
    assert not alive(pid)
    assert not valkey.answers()
    valkey.restart(empty=True)
    assert valkey.pid != pid
    assert ask(valkey, "EXISTS k") == b":0\r\n"


def test_a_restarted_valkey_keeps_its_data(valkey: Valkey) -> None:
    assert ask(valkey, "SET k v") == b"+OK\r\n"
    valkey.restart()
    assert ask(valkey, "GET k") == b"$1\r\nv\r\n"


def test_waiting_has_an_end() -> None:
    with pytest.raises(AssertionError, match="the moon: not within"):
        wait_until(lambda: False, "the moon", timeout_s=0.05)


async def test_eventually_awaits_coroutines() -> None:
    answers = iter([0, 0, 7])

    async def condition() -> int:
        return next(answers)

    assert await eventually(condition) == 7


def test_what_is_lacking_skips_and_fails_where_all_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZPUSH_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install it"):
        lacking("it is not installed (Debian: apt-get install it)")
    monkeypatch.setenv("ZPUSH_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install it"):
        lacking("it is not installed (Debian: apt-get install it)")


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    """A test's own threads end with its loop, and what they started is perhaps shared by all tests."""
    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(spawn, "sleep", "60").result()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    assert end(child) == -signal.SIGKILL
