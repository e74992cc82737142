"""Child processes: forked so that none outlives the master, named by pidfd so that no pid is mistaken.

Rules. A child asks the kernel for TERM at its parent's death before it does anything else, and leaves if
the parent died before it could ask. Signals are blocked across fork: one that comes before the child has
put its own handlers in place would otherwise be written into the master's wakeup socket and be lost.
TTIN and TTOU, by default a stop, are the master's alone: sent to the whole group they do nothing to a child.
A child never returns into the master's frames, and its collector destroys nothing that it inherits: an
object of a library may stand for threads that are not there, and librdkafka's crashes then. libc is loaded
before fork: a child of a process that is short of memory must not have to open files first.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from zpush import log
from zpush.errors import ConfigError, ZpushError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
FAILED, REFUSED = 1, 2  # exit codes: anything; the configuration is at fault, another try cannot help

_libc = ctypes.CDLL(None, use_errno=True)
_logger = logging.getLogger("zpush.master")


class Child:
    """A forked process that has not been reaped."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)  # readable when the process has ended

    def send(self, number: int) -> None:
        """Does nothing where the process has ended already."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def reap(self) -> int:
        """The exit code, or minus the signal that ended it. Only after the pidfd became readable: else it blocks."""
        _, status = os.waitpid(self.pid, 0)
        self.close()
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self.pidfd)


def fork(main: Callable[[], int]) -> Child:
    """A child that runs main and exits with what it returns. Raises OSError where the system has no room for it."""
    master = os.getpid()
    sys.stdout.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    collects = gc.isenabled()
    gc.disable()
    try:
        pid = os.fork()
        if pid == 0:
            gc.freeze()
            gc.enable()
            _run(main, master, mask)
        return Child(pid)
    finally:
        if collects:
            gc.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def execute(path: str, *arguments: str) -> NoReturn:
    """For a child's main: becomes another program, in a session of its own, so that a Ctrl-C does not reach it."""
    os.setsid()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.execv(path, [path, *arguments])


def describe(code: int) -> str:
    """For the log: "exit 1" or "SIGKILL"."""
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def _run(main: Callable[[], int], master: int, mask: Iterable[int]) -> NoReturn:
    code = FAILED
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != master:
            os._exit(FAILED)
        _reset_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = main()
    except ConfigError as e:
        code = REFUSED
        log.event(_logger, "refused", logging.ERROR, reason=str(e))
    except ZpushError as e:
        log.event(_logger, "failed", logging.ERROR, reason=str(e))
    except Exception:  # noqa: BLE001 - the border of a process: what is not told here is told nowhere
        log.event(_logger, "crashed", logging.ERROR, exc_info=True)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _reset_signals() -> None:
    """The master's handlers go; HUP, which would end a process, opens the log file anew until the child has its own."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, lambda *_: log.reopen())
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
