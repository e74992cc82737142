"""More and fewer workers under clients and senders, and settings that change under them."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from tests.road.api import Api
from tests.road.devices import Connect, Spread
from tests.road.server import Serve, Server
from tests.support import eventually, run_zpush

RETIREMENT = ("connections.go_away_grace=10m", "server.drain_window=1s")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def ready_reason(server: Server) -> str:
    async with Api(server.api) as sender:
        return str((await sender.http.get("/readyz")).json()["reason"])


async def test_retired_worker_asks_its_clients_to_go_and_no_sender_notices(
    serve: Serve, spread: Spread, connect: Connect, name: str
) -> None:
    server = serve(*RETIREMENT)
    stays, goes = await spread(server)
    async with Api(server.api) as api:
        server.process.send_signal(signal.SIGTTOU)
        assert await goes.receive() == "_CLOSE_"
        assert {await ready_reason(server) for _ in range(60)} == {""}, "the box is ready, whoever is asked"
        for number in range(60):  # each over a connection of its own: none ends up with the one that leaves
            async with Api(server.api) as sender:
                assert await sender.direct(goes.client_id, f"{number}") == "delivered"
        assert await goes.receive_all(60) == [str(number) for number in range(60)]
        late = [await connect(server, f"{name}-late-{number}") for number in range(8)]
        assert {await api.worker_of(device.client_id) for device in late} == {0}
        await goes.close()
        status = server.until(lambda s: [w["slot"] for w in s["workers"]] == [0], "it is gone")
        assert (status["state"], status["totals"]["restarts"]) == ("ready", 0)

        async def one_node() -> bool:
            return len((await api.get("/v1/nodes"))["nodes"]) == 1

        await eventually(one_node, "and nobody sends there")
        assert await api.direct(stays.client_id, "still here") == "delivered"
        assert await stays.receive() == "still here"


async def test_retired_worker_that_waits_for_its_clients_uses_no_cpu(serve: Serve, spread: Spread) -> None:
    server = serve(*RETIREMENT)
    _, goes = await spread(server)
    pid = server.pid_of("workers", 1)
    server.process.send_signal(signal.SIGTTOU)
    assert await goes.receive() == "_CLOSE_"
    used_s, until_s = cpu_s(pid), time.monotonic() + 1.5
    await eventually(lambda: time.monotonic() > until_s, "a while")
    assert cpu_s(pid) - used_s < 0.3


async def test_new_worker_takes_clients_and_delivers(serve: Serve, connect: Connect, name: str) -> None:
    server = serve("server.workers=1")
    async with Api(server.api) as api:
        old = await connect(server, name)
        server.process.send_signal(signal.SIGTTIN)
        server.until(lambda s: [w["state"] for w in s["workers"]] == ["ready"] * 2, "one more", 30.0)
        for number in range(64):
            new = await connect(server, f"{name}-{number}")
            if await api.worker_of(new.client_id) == 1:
                break
        for device in (old, new):
            assert await api.direct(device.client_id, "direct") == "delivered"
            await api.push({"client": device.client_id}, text="queued")
            assert await device.receive_all(2) == ["direct", "queued"]


async def test_reload_changes_keys_and_limits_under_connections(tmp_path: Path, connect: Connect, name: str) -> None:
    file = tmp_path / "zpush.toml"
    file.write_text('[connections]\noutbound_window = "1h"\n')
    server = Server(command=("-m", "zpush", "serve", "-c", str(file)))
    try:
        server.start()
        device = await connect(server, name)
        file.write_text(
            '[api]\nkeys = ["a-key-of-16-bytes"]\n[connections]\noutbound_window = "1h"\noutbound_messages = 1\n'
        )
        command = ("reload", "--set", f"server.data_dir={server.data_dir}")
        done = await asyncio.to_thread(run_zpush, *command)
        assert (done.returncode, done.stdout) == (0, "reloaded\nchanged: connections.outbound_messages, api.keys\n")
        both = {"worker 0", "worker 1"}
        await eventually(lambda: both <= {line["process"] for line in server.logged("reloaded")}, "both have heard it")
        async with Api(server.api) as api:
            assert (await api.http.get("/v1/nodes")).status_code == 401, "the key is asked for"
            api.http.headers["Authorization"] = "Bearer a-key-of-16-bytes"
            outcomes = [await api.direct(name, "x") for _ in range(3)]
        assert outcomes == ["delivered", "rate_limited", "rate_limited"]
        assert await device.receive() == "x"
        file.write_text('[api]\nkeys = ["too short"]\n')
        refusal = await asyncio.to_thread(run_zpush, *command)
        assert refusal.returncode == 2
        assert f"{file}:2: api.keys is ***" in refusal.stderr
        status = server.status()
        assert status is not None and [worker["restarts"] for worker in status["workers"]] == [0, 0]
    finally:
        server.stop(signal.SIGINT)
        server.close()
