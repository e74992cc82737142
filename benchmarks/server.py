"""A `zpush serve` of the benchmark's own: embedded, one worker, free ports, gone with the benchmark."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.native import ROOT, die_with_parent

SECRET = "benchmarks-share-this-secret"
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """clients, api: host:port. pids: the processes whose CPU time a benchmark may ask for, by name."""

    clients: str
    api: str
    data_dir: str
    pids: dict[str, int]

    @property
    def worker(self) -> int:
        return self.pids["worker"]

    def push(self, pushes: Sequence[dict[str, object]]) -> None:
        """One NDJSON request; an error in any line ends the benchmark."""
        body = b"".join(json.dumps(each).encode() + b"\n" for each in pushes)
        answer = self._ask("POST", "/v1/push", body)
        if b'"error"' in answer:
            raise RuntimeError(f"a push was refused: {answer[:300]!r}")

    def push_to_all(self, text: str, times: int = 1) -> None:
        """Answered when every client's outcome is known."""
        self.push([{"to": {"all": True}, "text": text, "direct": True}] * times)

    def metric(self, name: str) -> float:
        match = re.search(rf"^{name} ([0-9.e+]+)$", self._ask("GET", "/metrics").decode(), re.MULTILINE)
        if match is None:
            raise RuntimeError(f"/metrics has no {name}")
        return float(match[1])

    def total(self, name: str, label: str) -> float:
        """The sum of a metric's samples that have this label: `name="value"`."""
        lines = self._ask("GET", "/metrics").decode().splitlines()
        found = (line for line in lines if line.startswith(f"{name}{{") and label in line)
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection(self.api, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/x-ndjson"} if body else {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{method} {path} was answered {response.status}: {content[:300]!r}")
        return content


def common_settings(directory: str) -> list[str]:
    return [
        f"server.data_dir={directory}",
        f"server.control_socket={directory}/control.sock",
        "server.bind=127.0.0.1:0",
        "api.bind=127.0.0.1:0",
        "server.backlog=1024",
        "peers.port=0",
        f"peers.secret={SECRET}",
        "connections.max=18000",
        "connections.keepalive=1h",  # no pings while something is measured
        "log.level=error",
    ]


@contextmanager
def serving(*overrides: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="zpush-bench-") as directory:
        command = [sys.executable, "-m", "zpush", "serve", "--workers", "1"]
        for each in (*common_settings(directory), *overrides):
            command += ["--set", each]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_parent, text=True, cwd=ROOT)
        assert process.stdout is not None
        try:
            if "is ready" not in process.stdout.readline():
                raise RuntimeError("zpush did not start; its reason stands above")
            yield _describe(directory)
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_TIMEOUT_S)
            process.stdout.close()


@contextmanager
def joined(first: Server) -> Iterator[Server]:
    """A second server of the first one's cluster: its registry and queue, no processor."""
    valkey = f"unix://{first.data_dir}/valkey.sock"
    with serving(f"registry.url={valkey}", f"queue.url={valkey}", "auth.mode=dev", "processor.instances=0") as second:
        yield second


def _describe(directory: str) -> Server:
    status = _status(directory)
    pids = {"worker": status["workers"][0]["pid"]}
    if status["processors"]:
        pids["processor"] = status["processors"][0]["pid"]
    if status["valkey"] is not None:
        pids["valkey"] = status["valkey"]["pid"]
    return Server(status["addresses"]["clients"], status["addresses"]["api"], directory, pids)


def _status(directory: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "zpush", "status", "--json", "--set", f"server.data_dir={directory}"]
    command += ["--set", f"server.control_socket={Path(directory) / 'control.sock'}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    status: dict[str, Any] = json.loads(answer.stdout)
    return status
