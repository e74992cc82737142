"""Looks for an input that breaks a target's invariant, makes it as small as it can, keeps it, and replays it.

Rules. hypothesis generates and shrinks; its own database is off, because a kept input is a file that names its target
and holds a literal. Kept inputs go to build/fuzz; one that is worth keeping for good moves to tests/fuzz/found, where
every test run replays it. The input at hand is written down before it is tried: where C code takes the process down
with it, that file is left behind, and the next run names it.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.target import Target
from tests.support import ROOT

KEPT = ROOT / "build" / "fuzz"
FOUND = Path(__file__).parent / "found"


@dataclass(frozen=True)
class Finding:
    """The smallest input found that breaks the target, and how it does."""

    target: Target
    input: Any
    error: str

    def keep(self, folder: Path = KEPT) -> Path:
        text = repr(self.input)
        path = folder / f"{self.target.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
        folder.mkdir(parents=True, exist_ok=True)
        last_line = self.error.strip().splitlines()[-1]
        path.write_text(f"# {last_line[:200]}\n{text}\n")
        return path


@dataclass
class Current:
    """A file that always holds the input being tried. It is locked while the process lives."""

    path: Path
    fd: int = field(init=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __call__(self, value: Any) -> None:
        text = repr(value).encode()
        os.pwrite(self.fd, text, 0)
        os.ftruncate(self.fd, len(text))

    def remove(self) -> None:
        """The process lived."""
        self.path.unlink()
        os.close(self.fd)


def left_behind(folder: Path = KEPT) -> list[Path]:
    """The files of processes that died in the middle of an input, under names of their own."""
    found = []
    for path in sorted(folder.glob("*.current")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # a run that is under way
            found.append(path.rename(path.with_name(f"{target_name(path)}-crash-{path.stat().st_mtime_ns}.txt")))
    return found


def search(
    target: Target, examples: int, seed_number: int, before: Callable[[Any], None] | None = None
) -> Finding | None:
    """Tries so many inputs. `before` is told each."""
    broken: list[tuple[Any, str]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    @seed(seed_number)
    @given(target.inputs)
    def attempt(value: Any) -> None:
        if before is not None:
            before(value)
        try:
            target.check(value)
        except Exception:
            broken.append((value, traceback.format_exc()))
            raise

    try:
        attempt()
    except Exception:  # whatever a defect raises; hypothesis tries the smallest input last
        if not broken:
            raise
        return Finding(target, *broken[-1])
    return None


def load(path: Path) -> Any:
    """The input in a file that Finding.keep or Current wrote."""
    return ast.literal_eval("".join(line for line in path.read_text().splitlines(True) if not line.startswith("#")))


def target_name(path: Path) -> str:
    """Of a file that Finding.keep or Current wrote."""
    return path.name.partition("-")[0].partition(".")[0]
