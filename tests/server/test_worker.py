"""A whole worker, in this process: what ends it, and what a reload changes in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.auth.service import service
from tests.auth.tokens import KEY, OTHER, jwk, key_set, rsa_key
from tests.support import Valkey, eventually
from zpush import config
from zpush.auth import jwt
from zpush.config import Settings
from zpush.master.listeners import open_listeners
from zpush.registry.base import Node
from zpush.scoreboard import WORKER, Scoreboard
from zpush.server.worker import Worker

SECRET = "peers.secret=a-secret-of-this-tests-own-worker"


@pytest.fixture
def collector() -> Iterator[None]:
    """A worker tunes the garbage collector."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def load(valkey: Valkey, directory: Path, *overrides: str) -> Settings:
    places = [f"registry.url={valkey.url}", f"queue.url={valkey.url}", f"server.data_dir={directory}"]
    ports = ["server.bind=127.0.0.1:0", "api.bind=127.0.0.1:0", "peers.port=0"]
    return config.load(None, {}, [*places, *ports, SECRET, *overrides])


class Run:
    """A worker that serves. settings: what it finds after a HUP."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        [self._sockets] = open_listeners(settings, 1)
        self.clients = "ws://{}:{}/ws".format(*self._sockets.client.getsockname())
        board = Scoreboard()
        self.row = board.rows[board.claim(WORKER, 0)]
        self.worker = Worker(settings, board, self.row, 0, self._sockets, lambda: self.settings)

    def reload(self, settings: Settings) -> None:
        self.settings = settings
        os.kill(os.getpid(), signal.SIGHUP)

    async def status(self, token: str) -> int:
        """Of a handshake with this token."""
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with connect(self.clients, additional_headers=headers, proxy=None):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Run, asyncio.Task[None]]]:
    """The worker and its task; the end is the test's, or an INT."""
    it = Run(settings)
    reading, writing = os.pipe()
    try:
        task = asyncio.create_task(it.worker.run(writing))
        await eventually(lambda: it.row.get("ready"), "it serves")
        yield it, task
        if not task.done():
            os.kill(os.getpid(), signal.SIGINT)
            await task
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.usefixtures("collector")
async def test_a_worker_that_cannot_keep_its_leases_leaves_in_order_and_says_why(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would call its clients offline while they believe that they are connected. The master starts another."""
    settings = load(valkey, tmp_path, "auth.mode=dev", "registry.node_ttl=1s")
    async with running(settings) as (it, task):
        worker = it.worker
        withdrawn: list[str] = []
        withdraw = worker._registry.withdraw

        async def broken(node: Node) -> bool:
            raise ZeroDivisionError("a defect")

        async def gone(node_id: str) -> None:
            withdrawn.append(node_id)
            await withdraw(node_id)

        monkeypatch.setattr(worker._registry, "renew_node", broken)
        monkeypatch.setattr(worker._registry, "withdraw", gone)
        await asyncio.wait([task], timeout=30)
        with pytest.raises(ExceptionGroup) as caught:
            task.result()
        assert caught.group_contains(ZeroDivisionError)
        assert withdrawn == [worker._keeper.node_id] and not it.row.get("ready")


@pytest.mark.usefixtures("collector")
async def test_a_key_that_was_taken_out_stays_out_whatever_an_earlier_reload_still_waits_for(
    valkey: Valkey, tmp_path: Path
) -> None:
    """Two HUPs close together: the first one's URL answers only when the second has long been in force."""
    files = []
    for number, key in enumerate((KEY, OTHER)):
        files.append(tmp_path / f"keys-{number}")
        files[-1].touch(mode=0o600)
        files[-1].write_bytes(key)
    old, new = (jwt.sign(key, f"d{number}", ttl_s=60) for number, key in enumerate((KEY, OTHER)))
    mode = ("auth.mode=jwt", f"auth.keys_file={files[0]}")
    async with service() as url, running(load(valkey, tmp_path, *mode)) as (it, _):
        url.body = key_set(jwk(rsa_key(), kid="a"))
        url.hold.clear()
        it.reload(load(valkey, tmp_path, *mode, f"auth.jwks_url={url.url}"))
        await eventually(lambda: url.requests, "the URL is asked")
        assert [await it.status(token) for token in (old, new)] == [101, 401]
        it.reload(load(valkey, tmp_path, "auth.mode=jwt", f"auth.keys_file={files[1]}"))

        async def in_force() -> bool:
            return await it.status(new) == 101

        await eventually(in_force, "the second reload is in force")
        url.hold.set()
        await it.worker._authentication._tasks.wait(30.0)  # the first one is through
        assert [await it.status(token) for token in (old, new)] == [401, 101]
