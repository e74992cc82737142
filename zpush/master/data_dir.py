"""The data directory: one run's at a time.

Rules. The lock is the kernel's (flock) and ends with its holders, so that nothing stale is ever left; the
pid written into the file only says whom to blame. The embedded server inherits the lock: after kill -9
of a master, the next one waits until the old server has left the data that both would write.
Workers do not inherit it: a new run may start while an old one's workers drain.
"""

from __future__ import annotations

import fcntl
import os
import time

from zpush.errors import StartupError

LOCK = "zpush.lock"
LEAVING_S = 10.0  # for the embedded server of a dead run to write its last and leave
POLL_S = 0.05


class DataDir:
    """A directory that is ours until `close`, or until this process and its heir have ended.

    was_abandoned: the last run did not end by itself, and its workers may not have left yet.
    """

    def __init__(self, path: str) -> None:
        """Makes the directory and locks it. Raises StartupError: not writable, or another run's."""
        self.path = os.path.abspath(path)
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self.lock_fd = os.open(os.path.join(self.path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StartupError(
                f"server.data_dir {self.path}: {e.strerror}; set it to a directory that this user may write"
            ) from None
        try:
            self._lock()
            self.was_abandoned = _holder(self.lock_fd) != 0
            os.ftruncate(self.lock_fd, 0)
            os.pwrite(self.lock_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as e:
            self.close()
            raise StartupError(f"server.data_dir {self.path}: cannot lock {LOCK}: {e.strerror}") from None
        except StartupError:
            self.close()
            raise

    def subdirectory(self, name: str) -> str:
        path = os.path.join(self.path, name)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as e:
            raise StartupError(f"server.data_dir: {path}: {e.strerror}") from None
        return path

    def release(self) -> None:
        """At the end of a run that ended by itself."""
        os.ftruncate(self.lock_fd, 0)
        self.close()

    def close(self) -> None:
        """Closes this process's copy; LOCK_UN would take the lock from all of them."""
        os.close(self.lock_fd)

    def _lock(self) -> None:
        deadline = time.monotonic() + LEAVING_S
        while not _try_lock(self.lock_fd):
            pid = _holder(self.lock_fd)
            if pid and _runs(pid):
                raise StartupError(f"server.data_dir {self.path} is in use by a running zpush, pid {pid}")
            if time.monotonic() > deadline:
                raise StartupError(
                    f"server.data_dir {self.path} is still held by the embedded server of a run that ended, pid {pid}"
                )
            time.sleep(POLL_S)


def in_use(path: str) -> bool:
    """Whether a run holds the directory now."""
    try:
        fd = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(fd: int) -> int:
    """The pid in the file; 0 where the holder has not yet written its own, or where the last run ended by itself."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
