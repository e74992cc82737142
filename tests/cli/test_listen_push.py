"""`zpush listen`, `push` and `where` against a real server: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from tests.road.conftest import serve, server, shared_server
from tests.road.server import Serve, Server
from tests.support import ROOT, end, free_port, run_zpush, spawn

__all__ = ["serve", "server", "shared_server"]
SETTINGS: tuple[str, ...] = ()  # a server of its own: `push --all` counts who is there
WAIT_S = 30.0
KEY = "a-key-of-the-test-0123456789"
Listen = Callable[..., "Listener"]
Zpush = Callable[..., subprocess.CompletedProcess[str]]


class Listener:
    """A `zpush listen`; its output is read by threads, so that no wait is without an end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._out, _ = self._reader(process.stdout)
        self._err, self._err_thread = self._reader(process.stderr)

    @staticmethod
    def _reader(pipe: IO[str] | None) -> tuple[queue.SimpleQueue[str], threading.Thread]:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            assert pipe is not None
            for line in pipe:
                lines.put(line.removesuffix("\n"))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return lines, thread

    def line(self) -> str:
        return self._out.get(timeout=WAIT_S)

    def error(self) -> str:
        """The next line on stderr; queue.Empty where the process has ended without one."""
        if self.process.poll() is not None:
            self._err_thread.join(WAIT_S)
            return self._err.get_nowait()
        return self._err.get(timeout=WAIT_S)

    def until_told(self, start: str) -> None:
        while not self.error().startswith(start):
            pass

    def wait(self) -> int:
        return self.process.wait(WAIT_S)


@pytest.fixture
def listen(server: Server) -> Iterator[Listen]:
    """listen(CLIENT_ID, …): a `zpush listen` that is open."""
    with ExitStack() as stack:

        def start(*args: str, **options: Any) -> Listener:
            command = [sys.executable, "-m", "zpush", "listen", *args, "--url", f"ws://{server.clients}"]
            process = spawn(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
            stack.callback(end, process)
            listener = Listener(process)
            listener.until_told("open")
            return listener

        yield start


@pytest.fixture
def push(server: Server) -> Zpush:
    return lambda *args, **options: run_zpush("push", "--api", server.api, *args, **options)


@pytest.mark.parametrize("transport", [[], ["--sse"]])
def test_queued_and_direct(listen: Listen, push: Zpush, transport: list[str]) -> None:
    listener = listen("demo", "--count", "2", *transport)
    queued = push("--client", "demo", "--id", "my-id", "hello")
    assert (queued.returncode, queued.stdout) == (0, "queued my-id\n"), queued.stderr
    assert listener.line() == "hello"  # and flushed: it is a pipe
    direct = push("--client", "demo", "--direct", "--priority", "high", "--ttl", "60s", "now")
    assert (direct.returncode, direct.stdout) == (0, "delivered\n")
    assert (listener.line(), listener.wait()) == ("now", 0)


def test_a_message_is_one_line_and_cannot_steer_the_terminal(listen: Listen, push: Zpush) -> None:
    listener = listen("lines")
    push("--client", "lines", "two\nlines\r\x1b[31m\u2028\tü")
    assert listener.line() == "two\\nlines\\r\\x1b[31m\\u2028\tü"


def test_a_terminal_that_cannot_show_everything(listen: Listen, push: Zpush) -> None:
    listener = listen("ascii", env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"})
    push("--client", "ascii", "ü€")
    assert listener.line() == "\\xfc\\u20ac"


def test_binary_from_standard_input_and_text_from_a_file(listen: Listen, push: Zpush, tmp_path: Path) -> None:
    plain, exact = listen("files"), listen("files-json", "--json")
    file = tmp_path / "message"
    file.write_bytes(b"\x00\xff")
    to = ("--client", "files", "--client", "files-json", "--direct")
    assert push(*to, "--file", str(file)).returncode == 0
    assert (plain.line(), json.loads(exact.line())["base64"]) == ("AP8=", "AP8=")
    assert push(*to, "-", input="from stdin\n").returncode == 0
    assert (plain.line(), json.loads(exact.line())["data"]) == ("from stdin\\n", "from stdin\n")
    assert push(*to, "--json", "-", input='{ "a": 1 }').returncode == 0
    assert (plain.line(), json.loads(exact.line())["data"]) == ('{"a":1}', {"a": 1})


def test_a_line_for_each_of_several_and_3_where_one_was_not_reached(listen: Listen, push: Zpush) -> None:
    listen("here")
    done = push("--client", "here", "--client", "not here", "--direct", "x")
    assert (done.returncode, done.stdout) == (3, "delivered here\noffline not here\n")
    done = push("--client", "nobody", "--direct", "x")
    assert (done.returncode, done.stdout) == (3, "offline\n")
    done = push("--user", "nobody", "--direct", "x")
    assert (done.returncode, done.stdout) == (3, "offline\n")
    done = push("--all", "--direct", "x")
    assert (done.returncode, done.stdout) == (0, "delivered 1\n")


def test_where(listen: Listen, server: Server) -> None:
    listen("where/äh")
    done = run_zpush("where", "--api", server.api, "where/äh")
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(shown) == {"client", "node", "worker", "since", "epoch"}
    assert shown["client"] == "where/äh"
    lease = json.loads(run_zpush("where", "--api", server.api, "--json", "where/äh").stdout)
    assert str(lease["epoch"]) == shown["epoch"]
    done = run_zpush("where", "--api", server.api, "nobody")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "nobody is offline\n")


def test_the_time_of_listening(server: Server) -> None:
    url = f"http://{server.clients}"
    assert run_zpush("listen", "quiet", "--url", url, "--timeout", "3s").returncode == 0, "it was open in this time"
    assert run_zpush("listen", "quiet", "--url", url, "--timeout", "200ms", "--count", "1").returncode == 1


def test_control_c_is_no_traceback(listen: Listen) -> None:
    listener = listen("interrupted")
    listener.process.send_signal(signal.SIGINT)
    assert listener.wait() == 130
    with pytest.raises(queue.Empty):
        listener.error()


def test_who_is_replaced_says_so(listen: Listen) -> None:
    first = listen("twice")
    listen("twice")
    first.until_told("zpush: closed with 4002")
    assert first.wait() == 1


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["push", "--client", "c"], 2, "exactly one"),
        (["push", "--client", "c", "--file", "f", "data"], 2, "exactly one"),
        (["push", "data"], 2, "required"),
        (["push", "--client", "c", "--all", "data"], 2, "not allowed with"),
        (["push", "--client", "c", "--ttl", "soon", "x"], 2, "not a duration"),
        (["push", "--client", "c", "--priority", "urgent", "x"], 2, "invalid choice"),
        (["push", "--client", "", "x"], 2, "client is empty"),
        (["push", "--client", "c", "--json", "{"], 2, "not JSON"),
        (["push", "--client", "c", "--file", "/nonexistent"], 1, "No such file"),
        (["push", "--client", "c", "--key-file", "/nonexistent", "x"], 2, "/nonexistent"),
        (["where", "a\nb"], 2, "control character"),
        (["listen", "c", "--url", "ftp://h"], 2, "a client's URL"),
        (["push", "--api", "localhost:8081", "--client", "c", "x"], 2, "http://"),
        (["where", "--api", "nonsense", "c"], 2, "http://"),
        (["listen", "c", "--count", "-1"], 2, "a whole number from 1 on"),
        (["listen", "c", "--token", "a b"], 2, "token"),
        (["listen", "", "--url", "ws://h"], 2, "client is empty"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], code: int, complaint: str) -> None:
    done = run_zpush(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_nobody_there_is_1(server: Server) -> None:
    api = f"http://127.0.0.1:{free_port()}"
    for arguments in (["push", "--api", api, "--client", "c", "x"], ["where", "--api", api, "c"]):
        done = run_zpush(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "is `zpush serve` running?" in done.stderr
    done = run_zpush("listen", "c", "--url", server.api)
    assert (done.returncode, done.stdout) == (1, "")
    assert "refused with 404" in done.stderr


def test_ports_that_only_the_running_server_knows(server: Server) -> None:
    """Those of `--set server.bind=127.0.0.1:0` and the like: its master is asked."""
    configured = [
        part
        for each in ("server.bind=127.0.0.1:0", "api.bind=127.0.0.1:0", f"server.data_dir={server.data_dir}")
        for part in ("--set", each)
    ]
    done = run_zpush("listen", "ports", *configured, "--timeout", "3s")
    assert (done.returncode, done.stderr) == (0, "connecting\nopen\n")
    assert run_zpush("push", *configured, "--client", "ports", "--direct", "x").stdout == "offline\n"
    assert run_zpush("where", *configured, "ports").returncode == 3
    for command in (["listen", "c"], ["push", "--client", "c", "x"], ["where", "c"]):
        done = run_zpush(*command, *configured[:4], "--set", "server.data_dir=/nonexistent")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no running zpush answers here" in done.stderr


def test_what_was_printed_is_acknowledged(listen: Listen, push: Zpush) -> None:
    listener = listen("acks", "--count", "1")
    done = push("--client", "acks", "--wait-ack", "20s", "x")
    assert (done.returncode, done.stdout) == (0, "acked\n"), done.stderr
    assert (listener.line(), listener.wait()) == ("x", 0)


def test_no_proxy_leads_to_this_machine(listen: Listen, push: Zpush, server: Server) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:1"}
    listen("proxied", env=environ)
    assert push("--client", "proxied", "--direct", "x", env=environ).stdout == "delivered\n"
    assert run_zpush("where", "--api", server.api, "proxied", env=environ).returncode == 0


def test_the_apis_key(serve: Serve, tmp_path: Path) -> None:
    """From the configuration or from --key-file; without one, a line that says so."""
    port, key_file = free_port(), tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    key_file.chmod(0o600)
    serve(f"api.bind=127.0.0.1:{port}", f"api.keys_file={key_file}")
    api, settings = f"http://127.0.0.1:{port}", [f"api.bind=127.0.0.1:{port}", f"api.keys_file={key_file}"]
    configured = [part for each in settings for part in ("--set", each)]
    for arguments in (["--api", api, "--key-file", str(key_file)], configured):
        assert run_zpush("push", *arguments, "--client", "c", "x").returncode == 0
        assert run_zpush("where", *arguments, "c").returncode == 3
    for command in (["push", "--client", "c", "x"], ["where", "c"]):
        done = run_zpush(*command, "--api", api)
        assert done.returncode == 1
        assert "key" in done.stderr and KEY not in done.stderr


def test_a_token_instead_of_the_client_id(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("k" * 40 + "\n")
    keys.chmod(0o600)
    settings = ["auth.mode=jwt", f"auth.keys_file={keys}"]
    it = serve(*settings)
    url = f"ws://{it.clients}"
    done = run_zpush("listen", "c", "--url", url)
    assert (done.returncode, "401" in done.stderr) == (1, True)
    made: Any = run_zpush("token", "c", "--set", settings[0], "--set", settings[1])
    for given, stdin in ((made.stdout.strip(), ""), ("-", made.stdout)):
        done = run_zpush("listen", "c", "--url", url, "--token", given, "--timeout", "3s", input=stdin)
        assert (done.returncode, done.stderr) == (0, "connecting\nopen\n")


def test_listening_where_nobody_answers_fails() -> None:
    done = run_zpush("listen", "demo", "--url", f"ws://127.0.0.1:{free_port()}", "--timeout", "3s")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "nobody listens on port" in done.stderr
    assert done.stderr.endswith("zpush: not connected in this time\n")
