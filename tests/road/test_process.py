"""`zpush process`: message processors beside a server that has none."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from typing import Any

from tests.road.api import Api
from tests.road.devices import Spread
from tests.road.server import Serve
from tests.support import end, free_port, run_zpush, wait_until
from zpush import Push, Pusher

NUMBERS = [str(n) for n in range(200)]


async def test_two_processors_share_the_work_and_one_takes_over(serve: Serve, spread: Spread) -> None:
    server = serve("processor.instances=0")
    devices = await spread(server)
    async with Pusher(server.queue_url) as pusher:

        async def everything_arrives() -> None:
            await pusher.push_many(Push(client=d.client_id, text=n) for n in NUMBERS for d in devices)
            for device in devices:
                assert await device.receive_all(len(NUMBERS)) == NUMBERS

        first = server.spawn("-m", "zpush", "process")
        await everything_arrives()
        second = server.spawn("-m", "zpush", "process")

        def shared() -> bool:
            held = {line["pid"]: sum(line["held"].values()) for line in server.logged("streams held")}
            return sorted(held.values()) == [12, 12]

        await asyncio.to_thread(wait_until, shared, "each holds half of the 24 streams")
        await everything_arrives()
        assert await asyncio.to_thread(end, first, signal.SIGTERM) == 0
        await everything_arrives()
    assert await asyncio.to_thread(end, second, signal.SIGTERM) == 0
    assert Counter(line["event"] for line in server.lines())["processor has left"] == 2


async def test_what_dedicated_processors_do_can_be_seen(serve: Serve, spread: Spread) -> None:
    server = serve("processor.instances=0")
    devices = await spread(server)
    where = f"127.0.0.1:{free_port()}"
    own = (f"processor.metrics_bind={where}", "processor.control_socket=<data_dir>/p.sock")
    sets = [part for each in (*own, f"server.data_dir={server.data_dir}") for part in ("--set", each)]

    def status() -> dict[str, Any] | None:
        done = run_zpush("status", "--process", "--json", *sets)
        return json.loads(done.stdout) if done.returncode == 0 else None

    process = server.spawn("-m", "zpush", "process", *sets)
    found = await asyncio.to_thread(wait_until, lambda: (it := status()) and it["state"] == "ready" and it, "ready")
    assert isinstance(found, dict)
    assert (found["addresses"], len(found["processors"]), found["workers"]) == ({"metrics": where}, 1, [])
    async with Pusher(server.queue_url) as pusher, Api(f"http://{where}") as scraped, Api(server.api) as workers:
        assert (await scraped.http.get("/healthz")).text == "ok\n"
        assert await scraped.get("/readyz") == {"ready": True, "reason": ""}
        await pusher.push_many(Push(client=d.client_id, text=n) for n in NUMBERS for d in devices)
        for device in devices:
            assert await device.receive_all(len(NUMBERS)) == NUMBERS
        await scraped.until_counted("zpush_messages_total", 2 * len(NUMBERS), outcome="delivered")
        metrics = await scraped.metrics()
        assert metrics.total("zpush_processes", kind="processor", ready="1") == 1
        assert (await workers.metrics()).total("zpush_taken_total") == 0, "they count by themselves"
    assert f"metrics {where}" in run_zpush("status", "--process", *sets).stdout
    assert run_zpush("reload", "--process", *sets).stdout == "reloaded\n"
    assert await asyncio.to_thread(end, process, signal.SIGTERM) == 0
    assert not (server.data_dir / "p.sock").exists()
