"""Programs that are told what to do: lines in, JSON lines out. `make bench` compiles those in C, floor.c and load.c."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "bench"
Answer = dict[str, float]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environ(more: Mapping[str, str]) -> dict[str, str]:
    """Ours, with more in it."""
    return {**os.environ, **more}


def program(name: str) -> str:
    """The path of one of ours."""
    path = BUILT / name
    if not path.exists():
        raise RuntimeError(f"{path} is missing: `make bench` builds it")
    return str(path)


class Told:
    """A running program: a command a line, an answer a line."""

    def __init__(self, *argv: str, env: Mapping[str, str] | None = None) -> None:
        self._name = argv[0]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
            cwd=ROOT,
            env=environ(env or {}),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, verb: str, **arguments: object) -> Answer:
        self.begin(verb, **arguments)
        return self.end()

    def begin(self, verb: str, **arguments: object) -> None:
        words = [verb, *(f"{name}={value}" for name, value in arguments.items())]
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def end(self) -> Answer:
        """The answer to what was begun. RuntimeError where there is none, or none that is worth anything."""
        return {name: float(value) for name, value in self.answer().items()}

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has ended; its reason stands above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._name}: {answer['error']}")
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Floor(Told):
    def __init__(self) -> None:
        super().__init__(program("floor"))
        self.address = f"127.0.0.1:{self.answer()['port']}"


class Load(Told):
    """load.c says what the commands are."""

    def __init__(self) -> None:
        super().__init__(program("load"))


_Running = TypeVar("_Running", bound=Told)


@contextmanager
def running(told: _Running) -> Iterator[_Running]:
    try:
        yield told
    finally:
        told.stop()


def floor() -> AbstractContextManager[Floor]:
    return running(Floor())


def load() -> AbstractContextManager[Load]:
    return running(Load())
