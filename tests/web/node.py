"""zpush.js in Node, driven from Python: the servers are those of the Python client's tests."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.support import die_with_parent, lacking

DRIVER = Path(__file__).resolve().parent / "driver.mjs"
WAIT_S = 30.0  # for the next line
LONG_S = 90.0  # for one of many
WS = Path("/usr/share/nodejs/ws/wrapper.mjs")  # Debian's node-ws; driver.mjs takes it


@cache
def node() -> list[str]:
    """The command that runs Node with a WebSocket; skips the test where there is none."""
    if shutil.which("node") is None:
        lacking("node is not installed (Debian: apt-get install nodejs)")
    command = ["node", "--no-warnings", "--experimental-websocket"]  # built in from Node 22 on
    if subprocess.run([*command, "-e", ""], capture_output=True, check=False).returncode == 0:
        return command
    if not WS.exists():
        lacking("node is older than 20.10 and has no WebSocket (Debian: apt-get install node-ws)")
    return command[:2]


class Page:
    """A client in a Node process, and what it told so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.told: list[dict[str, Any]] = []

    async def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            text = await self._process.stdout.readline()
        assert text, f"node has ended; it told {self.told}"
        told: dict[str, Any] = json.loads(text)
        self.told.append(told)
        return told

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """The next line that has these fields."""
        async with asyncio.timeout(LONG_S):
            while True:
                told = await self.line()
                if wanted.items() <= told.items():
                    return told

    async def take(self, count: int) -> list[Any]:
        """The data of the next messages."""
        taken: list[Any] = []
        async with asyncio.timeout(LONG_S):
            while len(taken) < count:
                told = await self.line()
                if "data" in told:
                    taken.append(told["data"])
        return taken

    @property
    def states(self) -> list[str]:
        return [told["state"] for told in self.told if "state" in told]

    async def close(self) -> None:
        await self.say("close")

    async def say(self, line: str) -> None:
        """A line that the driver knows."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()


@asynccontextmanager
async def page(url: str, **options: Any) -> AsyncIterator[Page]:
    """options: zpush.js's, and random (a number), tokens (what the callback answers), secure (ask for secure tokens),
    throwing and promising (what onMessage does)."""
    process = await asyncio.create_subprocess_exec(
        *node(), DRIVER, json.dumps({"url": url, **options}),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent,
    )  # fmt: skip
    try:
        yield Page(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
