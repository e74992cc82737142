"""A real master with children that only do what the tests need; run as its own process.

`python -m tests.master.fake_run '{"config": path, "set": [...], "timings": {...}, "processors_only": false}'`

A worker answers on its client port: "who" with its slot, pid and some settings; on "die", "hang", "leave" it does
that. The file `mode` in the data directory says how children behave from their start on: "serve", "crash",
"bug" (an exception), "refuse", "mute" (never ready), "late" (ready once there is a file `go`), "slow" (TERM ends it
once there is a file `go`) or "stubborn" (no signal but KILL ends it). Each end, and each reload, is told in the file
`events`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from tests.support import Valkey
from zpush import config, log
from zpush.config import Settings
from zpush.errors import ConfigError, ZpushError
from zpush.master.backoff import Timings
from zpush.master.master import Master
from zpush.master.reload import Load
from zpush.scoreboard import Row, Scoreboard
from zpush.server.listeners import Listeners

BEAT_S = 0.05


class Left(BaseException):
    """A signal said so."""


def mode(settings: Settings) -> str:
    path = Path(settings.server.data_dir, "mode")
    return path.read_text() if path.exists() else "serve"


def tell(settings: Settings, line: str) -> None:
    with open(Path(settings.server.data_dir, "events"), "a") as file:
        file.write(line + "\n")


def may_go(settings: Settings) -> bool:
    return Path(settings.server.data_dir, "go").exists()


def begin(settings: Settings, cells: Row, who: str) -> None:
    how = mode(settings)

    def leave(number: int, _: object) -> None:
        up = Valkey(Path(settings.server.data_dir).resolve()).answers()
        tell(settings, f"{who} {signal.Signals(number).name} valkey={up}")
        cells.set("ready", 0)
        if how != "slow" or number != signal.SIGTERM:
            raise Left

    tell(settings, f"{who} started")
    while how == "late" and not may_go(settings):
        time.sleep(BEAT_S)
    if how == "crash":
        os._exit(3)
    if how == "bug":
        raise ZeroDivisionError(f"in process {os.getpid()}")
    if how == "refuse":
        raise ConfigError("auth.keys_file: no such file")
    if how == "mute":
        time.sleep(1000)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN if how == "stubborn" else leave)


def run_worker(
    settings: Settings, board: Scoreboard, row: int, slot: int, sockets: Listeners, ready_fd: int, load: Load
) -> int:
    cells = board.rows[row]
    in_force = [settings]

    def reload(*_: object) -> None:
        in_force.append(load())
        tell(settings, f"worker {slot} reloaded")

    try:
        begin(settings, cells, f"worker {slot}")
        signal.signal(signal.SIGHUP, reload)
        cells.set("ready", 1)
        os.write(ready_fd, b"1")
        sockets.client.settimeout(BEAT_S)
        while not (may_go(settings) and not cells.get("ready")):
            cells.set("heartbeat_ms", time.monotonic_ns() // 1_000_000)
            try:
                connection, _ = sockets.client.accept()
            except TimeoutError:
                continue
            except OSError:
                time.sleep(BEAT_S)  # out of the group
                continue
            serve(connection, cells, slot, in_force[-1])
    except Left:
        pass
    return 0


def serve(connection: socket.socket, cells: Row, slot: int, settings: Settings) -> None:
    with connection:
        connection.settimeout(5.0)
        match connection.recv(64).decode():
            case "who":
                lowat = connection.getsockopt(socket.IPPROTO_TCP, 25)
                nodelay = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                open_files = len(os.listdir("/proc/self/fd"))
                answer = {
                    "slot": slot,
                    "pid": os.getpid(),
                    "lowat": lowat,
                    "nodelay": nodelay,
                    "fds": open_files,
                    "max": settings.connections.max,
                    "max_age_s": settings.connections.max_age_s,
                }
                cells.add("messages_delivered_high")
                connection.sendall(json.dumps(answer).encode())
            case "die":
                os._exit(9)
            case "hang":
                time.sleep(1000)
            case "leave":
                cells.set("ready", 0)


def run_processor(
    settings: Settings, board: Scoreboard, row: int, slot: int, ready_fd: int, load: Load, metrics: socket.socket | None
) -> int:
    try:
        begin(settings, board.rows[row], f"processor {slot}")
        os.write(ready_fd, b"1")
        while True:
            board.rows[row].set("heartbeat_ms", time.monotonic_ns() // 1_000_000)
            time.sleep(BEAT_S)
    except Left:
        return 0


def main() -> int:
    options = json.loads(sys.argv[1])

    def load() -> Settings:
        return config.load(options["config"], {}, options["set"])

    settings = load()
    log.set_process("master")
    log.setup(settings.log.level, "json", settings.log.file)
    master = Master(
        settings,
        processors_only=options["processors_only"],
        load=load,
        worker_main=run_worker,
        processor_main=run_processor,
        timings=Timings(**options["timings"]),
    )
    try:
        return master.run()
    except ZpushError as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
