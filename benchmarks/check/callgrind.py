"""Instructions counted by valgrind's callgrind: the same number, nearly, on a busy machine and on a quiet one.

Rules. What is counted stands between `count` and `dump`; everything else runs under valgrind without being counted, a
few times slower than alone. Each dump is a file of its own, which `callgrind_annotate` reads.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.native import BUILT

SHIM = BUILT / "callgrind.so"
_NAMED = "desc: Trigger: Client Request: "
_TOTAL = "totals: "


def missing() -> str:
    """Why nothing can be counted here; "" where it can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian: apt-get install valgrind)"
    return "" if SHIM.exists() else f"{SHIM} is missing: valgrind's headers were not there when `make` ran"


def command(module: str, folder: Path, *arguments: str) -> list[str]:
    """Python under callgrind. Its dumps go to the folder; what valgrind itself says, too."""
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
    valgrind += [f"--callgrind-out-file={folder}/callgrind.%p", f"--log-file={folder}/valgrind.%p"]
    return [*valgrind, sys.executable, "-m", module, *arguments]


def read(folder: Path) -> dict[str, int]:
    """Instructions by the name of their dump."""
    found: dict[str, int] = {}
    for path in folder.glob("callgrind.*"):
        lines = path.read_text().splitlines()
        name = next((line.removeprefix(_NAMED) for line in lines if line.startswith(_NAMED)), None)
        if name is not None:
            found[name] = next(int(line.removeprefix(_TOTAL)) for line in lines if line.startswith(_TOTAL))
    return found


class Counter:
    """For the process that is counted."""

    def __init__(self) -> None:
        self._shim = ctypes.CDLL(str(SHIM))
        if not self._shim.counted():
            raise RuntimeError("this runs under callgrind only: see `python -m benchmarks.check`")

    def start(self) -> None:
        self._shim.start()

    def count(self, work: Callable[[], object]) -> None:
        self._shim.toggle()
        work()
        self._shim.toggle()

    def toggle(self) -> None:
        """Begins to count, or stops."""
        self._shim.toggle()

    def dump(self, name: str) -> None:
        """What was counted since start goes into a file."""
        self._shim.dump(name.encode())
