"""The master: opens what must be opened once, starts everything, and ends it in order.

Rules. It loads no Redis client, no engine and no event loop: it only forks, watches and signals, so that
there is nothing in it to crash or to leak. Order of the start: data directory, secrets, listeners, control
socket, a child that tries the settings out, embedded Valkey, and once that answers, workers and processors. Order
of the end: workers and processors first, then Valkey, to which they write their last. TERM drains (a second one
is quick), INT and QUIT are quick, and what is still there after its time is killed. HUP reads the
configuration again (reload.py), TTIN and TTOU are one worker more and one fewer (workers.py). New settings
reach the children by HUP: each reads the same sources itself, with what must stay kept as here.
"""

from __future__ import annotations

import functools
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import zpush
from zpush import log
from zpush.config import Settings, peers_secret
from zpush.errors import StartupError
from zpush.master import data_dir, listeners, report
from zpush.master.backoff import Timings
from zpush.master.children import REFUSED
from zpush.master.control import Answer, Control, Reply
from zpush.master.data_dir import LEAVING_S, DataDir
from zpush.master.embedded import Embedded
from zpush.master.reactor import Reactor, Timer
from zpush.master.rehearsal import Rehearsal, Verdict, check_files, check_processors, check_server
from zpush.master.reload import Load, Reload, merge
from zpush.master.supervisor import Slot, Supervisor
from zpush.master.workers import Workers
from zpush.scoreboard import PROCESSOR, Scoreboard
from zpush.server.listeners import Listeners

# settings, scoreboard, row, slot, (a worker's sockets,) ready_fd, load(, where processors are scraped) → exit code.
# load: the settings after a HUP.
WorkerMain = Callable[[Settings, Scoreboard, int, int, Listeners, int, Load], int]
ProcessorMain = Callable[[Settings, Scoreboard, int, int, int, Load, socket.socket | None], int]

UNUSED = (signal.SIGUSR1, signal.SIGUSR2)  # which other servers give a meaning: it must not end this one
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, *UNUSED)
SPARE_DESCRIPTORS = 1024  # of a worker, beside its clients: senders, peers, registry, files

_logger = logging.getLogger("zpush.master")


def main(settings: Settings, processors_only: bool = False, load: Load | None = None) -> int:
    """Runs until a signal ends it. load: reads the configuration again, for HUP. Returns the exit code."""
    return Master(settings, processors_only=processors_only, load=load).run()


def _run_worker(*arguments: Any) -> int:
    from zpush.server.worker import run_worker  # in the child: the master never loads it

    return run_worker(*arguments)


def _run_processor(
    settings: Settings, board: Scoreboard, row: int, slot: int, ready_fd: int, load: Load, metrics: socket.socket | None
) -> int:
    from zpush.delivery.processor import run_processor  # in the child

    if metrics is None:
        return run_processor(settings, board, row, slot, ready_fd, load)
    from zpush.server.scrape import scraped

    return run_processor(settings, board, row, slot, ready_fd, load, scraped(settings, board, metrics))


class Master:
    """One run. worker_main, processor_main: what the children do."""

    def __init__(
        self,
        settings: Settings,
        *,
        processors_only: bool = False,
        load: Load | None = None,
        worker_main: WorkerMain = _run_worker,
        processor_main: ProcessorMain = _run_processor,
        timings: Timings | None = None,
    ) -> None:
        self._settings = settings
        self._processors_only = processors_only
        self._load = load or (lambda: settings)
        self._worker_main = worker_main
        self._processor_main = processor_main
        self._timings = timings or Timings()
        self._reactor = Reactor()
        self._scoreboard = Scoreboard()
        self._supervisor = Supervisor(
            self._reactor, self._scoreboard, self._timings, settings.server.backlog, self._become_child
        )
        self._supervisor.on_ready = self._announce
        self._supervisor.on_refused = self._refuse
        self._workers = Workers(self._supervisor, self._timings, self._work)
        self._rehearsal = Rehearsal(
            "reload check", check_files, self._reactor, self._close_all, self._timings.check_files_s
        )
        self._start_check = Rehearsal(
            "start check",
            check_processors if processors_only else check_server,
            self._reactor,
            self._close_all,
            self._timings.check_start_s,
        )
        self._reload = Reload(
            self._load, lambda: self._settings, self._use, None if processors_only else self._rehearsal
        )
        self._started_at = time.time()
        self._data_dir: DataDir | None = None
        self._control: Control | None = None
        self._metrics: socket.socket | None = None  # of a run without workers, and so without an API
        self._embedded: Embedded | None = None
        self._announced = False
        self._ending: signal.Signals | None = None  # what the children were told
        self._deadline: Timer | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Raises StartupError or ConfigError where it cannot start; what it has begun ends then, too."""
        try:
            self._open()
            self._reactor.run(self._ended)
        finally:
            self._close()
        log.event(_logger, "ended", exit_code=self._exit_code)
        return self._exit_code

    def _open(self) -> None:
        log.event(_logger, "starting", version=zpush.__version__)
        _raise_descriptor_limit(
            self._settings.connections.max + SPARE_DESCRIPTORS,
            logging.INFO if self._settings.for_development else logging.WARNING,
        )
        self._reactor.handle_signals(SIGNALS, self._on_signal)
        if self._processors_only:
            self._open_processors()
        else:
            self._open_server()
        self._start_check.begin(self._settings, self._start)

    def _start(self, verdict: Verdict) -> None:
        """Everything is open, and nothing speaks against it."""
        if self._ending is not None:
            return
        if verdict is not None:
            raise verdict
        if self._embedded is not None:
            self._embedded.start()
        else:
            self._supervisor.start()

    def _open_server(self) -> None:
        settings = self._settings
        self._data_dir = DataDir(settings.server.data_dir)
        peers_secret(settings)  # generated, if it is to be, before several processes look for it
        patience_s = LEAVING_S if self._data_dir.was_abandoned else 0.0
        self._workers.open(settings, patience_s)
        self._control = Control(self._reactor, "server.control_socket", settings.server.control_socket, self._answer)
        if settings.embedded:
            self._embedded = Embedded(
                self._reactor,
                self._data_dir,
                settings.embedded_socket,
                self._timings,
                on_ready=self._supervisor.start,
                in_child=self._close_inherited,
            )
        self._add_processors(settings.processor.instances)

    def _open_processors(self) -> None:
        """`zpush process`: no directory, and ports and sockets only if told, so that any number can run on a box."""
        settings = self._settings
        if settings.embedded and not data_dir.in_use(settings.server.data_dir):
            raise StartupError(
                f"no `zpush serve` runs on server.data_dir {os.path.abspath(settings.server.data_dir)}, whose embedded "
                "server this would read: start it first, or set registry.url and queue.url"
            )
        peers_secret(settings)
        self._metrics = listeners.open_metrics(settings)
        path = settings.processor.control_socket
        if path:
            self._control = Control(self._reactor, "processor.control_socket", path, self._answer)
        self._add_processors(max(1, settings.processor.instances))

    def _add_processors(self, count: int) -> None:
        for number in range(count):
            self._supervisor.add(PROCESSOR, number, None, functools.partial(self._process, number))

    # In a child.

    def _work(self, number: int, sockets: Listeners, row: int, ready_fd: int) -> int:
        return self._worker_main(self._settings, self._scoreboard, row, number, sockets, ready_fd, self._load_merged)

    def _process(self, number: int, row: int, ready_fd: int) -> int:
        return self._processor_main(
            self._settings, self._scoreboard, row, number, ready_fd, self._load_merged, self._metrics
        )

    def _load_merged(self) -> Settings:
        return merge(self._settings, self._load())

    def _become_child(self, slot: Slot) -> None:
        log.set_process(slot.name)
        self._close_all(slot)

    def _close_all(self, own: Slot | None = None) -> None:
        self._close_inherited(own)
        if self._data_dir is not None:
            self._data_dir.close()

    def _close_inherited(self, own: Slot | None = None) -> None:
        """All but the lock, which Valkey takes along. own: whose sockets stay."""
        self._reactor.close()
        self._rehearsal.close_in_child()
        self._start_check.close_in_child()
        self._supervisor.close_in_child(own)
        if own is None and self._metrics is not None:
            self._metrics.close()
        if self._control is not None:
            self._control.close_in_child()
        if self._embedded is not None:
            self._embedded.close_in_child()

    # The end.

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._ask_reload(lambda answer: None)
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            if self._ending is None:
                self._workers.obey(number, self._settings)
        elif number in UNUSED:
            log.event(_logger, "signal without a meaning", logging.WARNING, signal=signal.Signals(number).name)
        elif number == signal.SIGTERM and self._ending is None:
            grace_s = self._settings.connections.go_away_grace_s + self._timings.drain_grace_s
            self._end(signal.SIGTERM, self._settings.server.drain_window_s + grace_s)
        elif self._ending in (None, signal.SIGTERM):
            self._end(signal.SIGQUIT, self._timings.quick_s)

    def _end(self, number: signal.Signals, within_s: float) -> None:
        """Tells the children; what is there when the time is over is told more."""
        log.event(_logger, "ending", how="drain" if number == signal.SIGTERM else "quick", within_s=within_s)
        self._ending = number
        self._supervisor.stop(number)
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._reactor.call_later(within_s, self._press)

    def _press(self) -> None:
        if self._supervisor.all_ended:
            return  # only Valkey is left, and has a deadline of its own
        if self._ending == signal.SIGTERM:
            self._end(signal.SIGQUIT, self._timings.quick_s)
        else:
            log.event(_logger, "killing what does not end", logging.WARNING)
            self._supervisor.send(signal.SIGKILL)

    def _ended(self) -> bool:
        """Asked after every turn of the loop."""
        if self._ending is None or not self._supervisor.all_ended:
            return False
        if self._embedded is None:
            return True
        if not self._embedded.stopping:
            self._embedded.stop()
        return self._embedded.ended

    def _close(self) -> None:
        self._rehearsal.close()
        self._start_check.close()
        self._supervisor.close()
        if self._control is not None:
            self._control.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._data_dir is not None:
            self._data_dir.release()
        self._reactor.close()

    # What is told.

    def _announce(self) -> None:
        if self._announced or not self._supervisor.all_ready:
            return
        self._announced = True
        where = report.addresses(self._workers.sockets, self._metrics)
        log.event(_logger, "ready", **where)
        processors = len(self._supervisor.slots) - len(self._workers.slots)
        text = report.started(self._settings, where, self._workers.count, processors)
        # At once or not at all: that nobody reads standard output is no reason to stop serving.
        log.offer(sys.stdout.fileno(), f"{text}\n".encode(errors="backslashreplace"))

    def _refuse(self) -> None:
        """A child cannot work with this configuration: at a start, that is told by the exit code."""
        if not self._announced and self._ending is None:
            self._exit_code = REFUSED
            self._end(signal.SIGQUIT, self._timings.quick_s)

    def _answer(self, request: Mapping[str, Any], reply: Reply) -> None:
        match request.get("cmd"):
            case "status":
                reply(self._status())
            case "reload":
                self._ask_reload(reply)
            case _:
                reply({"error": 'unknown "cmd"; known are "status" and "reload"'})

    def _status(self) -> Answer:
        return {
            "pid": os.getpid(),
            "version": zpush.__version__,
            "state": self._state(),
            "started": round(self._started_at, 3),
            "addresses": report.addresses(self._workers.sockets, self._metrics),
            **report.processes(self._supervisor.slots, self._scoreboard),
            "valkey": report.valkey(self._embedded),
            "reload": self._reload.last,
            "totals": report.totals(self._scoreboard),
        }

    def _state(self) -> str:
        if self._ending is not None:
            return "ending"
        if not self._announced:
            return "starting"
        return "ready" if self._supervisor.all_ready else "degraded"

    # Reload.

    def _ask_reload(self, reply: Reply) -> None:
        if self._ending is None:
            self._reload.ask(reply)
        else:
            reply({"error": "zpush is ending"})

    def _use(self, settings: Settings) -> list[str]:
        """Settings that have been checked."""
        if self._ending is not None:
            raise StartupError("zpush is ending")
        log.setup(settings.log.level, settings.log.format, settings.log.file)
        old, self._settings = self._settings, settings
        self._workers.use(settings)
        problems = []
        if settings.server.workers != old.server.workers and not self._processors_only:
            problems.append(self._workers.resize(settings.worker_count, settings, "server.workers"))
        self._supervisor.reload()
        return [problem for problem in problems if problem]


def _raise_descriptor_limit(wanted: int, level: int) -> None:
    """To the hard limit, which needs no privilege; the soft one is often 1,024 and would be the number of clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.event(
            _logger,
            "open files are limited below connections.max",
            level,
            limit=hard,
            wanted=wanted,
            remedy=f"ulimit -Hn {wanted}, or LimitNOFILE={wanted} in the service unit",
        )
