"""kill -9 of everything, one after the other: what follows is a delivered message or a clean restart."""

from __future__ import annotations

import asyncio
import signal

import redis

from tests.road.api import Api
from tests.road.devices import Connect, Device, Spread
from tests.road.server import Serve, Server
from tests.support import alive, eventually, wait_until
from zpush import Push, Pusher

NUMBERS = [str(n) for n in range(50)]


async def reconnect(connect: Connect, server: Server, client_id: str) -> Device:
    """As a client does: tries until it is let in."""

    async def attempt() -> Device | None:
        try:
            return await connect(server, client_id)
        except OSError:
            return None

    device = await eventually(attempt, "a client can connect")
    assert device is not None
    return device


async def test_clients_of_a_killed_worker_are_reached_again(serve: Serve, spread: Spread, connect: Connect) -> None:
    server = serve()
    victim, survivor = await spread(server)
    killed = server.kill("workers", 0)
    assert await victim.close_code() is None
    again = await reconnect(connect, server, victim.client_id)
    async with Pusher(server.queue_url) as pusher:
        for device in (again, survivor):
            await pusher.push(client=device.client_id, text="queued")
            assert await device.receive() == "queued"
    server.until_ready(restarts=1)
    assert server.pid_of("workers", 0) != killed
    async with Api(server.api) as api:
        for device in (again, survivor):
            assert await api.direct(device.client_id, "direct") == "delivered"
            assert await device.receive() == "direct"
        metrics = await api.until_counted("zpush_messages_total", 4, outcome="delivered")
        assert metrics.total("zpush_worker_restarts_total") == 1


async def test_a_client_of_a_killed_worker_that_stays_away_is_offline(serve: Serve, spread: Spread) -> None:
    """At once, for its incarnation is dead: nobody waits for a lease of 20 minutes to expire."""
    server = serve()
    victim, _ = await spread(server)
    server.kill("workers", 0)
    server.until_ready(restarts=1)
    async with Api(server.api) as api:
        assert await api.direct(victim.client_id, "are you there?") == "offline"
        await api.push({"client": victim.client_id}, text="queued")
        await api.until_counted("zpush_messages_total", 2, outcome="offline")


async def test_what_a_killed_processor_had_taken_is_delivered_by_the_next(serve: Serve, spread: Spread) -> None:
    server = serve()
    stuck, other = await spread(server)
    async with Pusher(server.queue_url) as pusher:
        with server.paused("workers", 0):  # its client's messages are under way when the processor dies
            for device in (stuck, other):
                taken = await pusher.push_many(Push(client=device.client_id, text=n, id=n) for n in NUMBERS)
                assert taken == NUMBERS
            assert await other.receive_all(len(NUMBERS)) == NUMBERS
            server.kill("processors")
        server.until_ready(restarts=1)
        received: list[str | bytes] = []
        while len(set(received)) < len(NUMBERS):  # at least once: what the worker had got arrives twice
            received.append(await stuck.receive())
        assert list(dict.fromkeys(received)) == NUMBERS
        await pusher.push(client=other.client_id, text="on it goes")
        await other.receive_until("on it goes")


async def test_queued_messages_survive_the_death_of_valkey(serve: Serve, connect: Connect, name: str) -> None:
    server = serve("processor.instances=0")
    async with Api(server.api) as api:
        for number in NUMBERS:
            await api.push({"client": name}, text=number)
    server.kill("valkey")
    server.until_ready(restarts=1)
    device = await connect(server, name)
    server.spawn("-m", "zpush", "process")
    assert await device.receive_all(len(NUMBERS)) == NUMBERS


async def test_connections_outlive_valkey_and_are_reached_again(serve: Serve, spread: Spread) -> None:
    server = serve()
    devices = await spread(server)
    server.kill("valkey")
    server.until_ready(restarts=1)
    for device in devices:
        await queue(server, device.client_id, "after")
        assert await device.receive() == "after"


async def test_leases_that_valkey_lost_are_written_again(serve: Serve, spread: Spread) -> None:
    server = serve()
    devices = await spread(server)
    with redis.Redis.from_url(server.queue_url) as valkey:
        valkey.flushall()
    server.kill("valkey")
    server.until_ready(restarts=1)
    for device in devices:
        await queue(server, device.client_id, "after")
        assert await device.receive() == "after"
    async with Api(server.api) as api:
        for worker, device in enumerate(devices):
            assert await api.worker_of(device.client_id) == worker


async def queue(server: Server, client_id: str, text: str) -> None:
    """As a sender does that was told 503 with Retry-After."""

    async def attempt() -> bool:
        async with Api(server.api) as api:
            response = await api.http.post("/v1/push", json={"to": {"client": client_id}, "text": text})
            assert response.status_code in (202, 503), response.text
            return response.status_code == 202

    await eventually(attempt, "the queue takes messages again")


async def test_readiness_says_that_valkey_is_away(serve: Serve, connect: Connect, name: str) -> None:
    """Stopped, not dead: nothing refuses, nothing answers."""
    server = serve()
    device = await connect(server, name)
    async with Api(server.api) as api:
        with server.paused("valkey"):

            async def away() -> bool:
                return (await api.http.get("/readyz")).status_code == 503

            await eventually(away, "readiness falls")
            reason = (await api.http.get("/readyz")).json()["reason"]
            assert "registry" in reason
            late = await connect(server, f"{name}-late", known_as="")  # let in without a lease
            response = await api.http.post("/v1/push", json={"to": {"client": name}, "text": "who knows"})
            assert response.status_code == 503
            assert "Retry-After" in response.headers

        async def ready() -> bool:
            return (await api.http.get("/readyz")).status_code == 200

        await eventually(ready, "readiness returns")
        for each in (device, late):
            await api.push({"client": each.client_id}, text="after")
            assert {*await each.receive_until("after")} <= {"who knows", "after"}


async def test_everything_ends_with_the_master_and_a_new_run_takes_over(
    serve: Serve, spread: Spread, connect: Connect, name: str
) -> None:
    server = serve("processor.instances=0")
    devices = await spread(server)
    async with Api(server.api) as api:
        for number in NUMBERS:
            await api.push({"client": name}, text=number)
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    for device in devices:
        assert await device.receive() == "_CLOSE_"
        assert await device.close_code() == 1001
    await asyncio.to_thread(wait_until, server.all_gone, "workers and Valkey end")
    await asyncio.to_thread(server.start)
    device = await connect(server, name)
    server.spawn("-m", "zpush", "process")
    assert await device.receive_all(len(NUMBERS)) == NUMBERS
    assert await asyncio.to_thread(server.stop, signal.SIGINT) == 0


async def test_a_new_run_waits_for_what_a_killed_master_left(serve: Serve, connect: Connect, name: str) -> None:
    """Started at once, while workers drain and Valkey writes its last. The new run has its ports."""
    server = serve()
    clients = int(server.clients.rpartition(":")[2])
    left = [server.pid_of("workers", 0), server.pid_of("workers", 1), server.pid_of("valkey")]
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    await asyncio.to_thread(server.start, f"server.bind=127.0.0.1:{clients}")
    assert int(server.clients.rpartition(":")[2]) == clients
    assert not alive(left[2])
    device = await connect(server, name)
    await queue(server, name, "hello")
    assert await device.receive() == "hello"
    await asyncio.to_thread(wait_until, lambda: not any(map(alive, left)), "the old run has ended")
