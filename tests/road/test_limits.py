"""The limits of `[connections]` on a whole server: what each does, and the counter that says so.

One worker: limits are per worker. Addresses are in test_addresses.py, floods in test_bad_clients.py.
"""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import InvalidStatus

from tests.road.api import Api
from tests.road.crowd import upgrade
from tests.road.devices import Connect, Device
from tests.road.raw import Raw, frame
from tests.road.server import Serve
from tests.support import eventually

TEXT, PING, PONG = 1, 9, 10
SIZE = 10_000  # of a message; for a client that does not read the kernel takes less than ten


def numbered(client_id: str, count: int) -> list[str]:
    """Pushes of "0 …", "1 …" and so on."""
    return [json.dumps({"to": {"client": client_id}, "text": f"{n} ".ljust(SIZE, ".")}) for n in range(count)]


async def queue(api: Api, lines: list[str]) -> None:
    status, answers = await api.batch(lines)
    assert status == 200
    assert all(answer["queued"] for answer in answers)


async def read_numbers(raw: Raw) -> list[int]:
    """All that waits for the client, which asks for a pong behind it."""
    await raw.send(frame(PING, b"the end"))
    found = []
    while (got := await raw.frame()) != (PONG, b"the end"):
        opcode, payload = got
        if opcode == TEXT:
            found.append(int(payload.split()[0]))
    return found


async def test_connections_of_a_worker(serve: Serve, connect: Connect) -> None:
    server = serve("server.workers=1", "connections.max=3")
    devices = [await connect(server, f"c{n}") for n in range(3)]
    with pytest.raises(InvalidStatus) as refused:
        await connect(server, "c3")
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) > 0
    async with Api(server.api) as api:
        await api.until_counted("zpush_handshakes_total", 1, result="full")
        assert await api.direct("c0", "here") == "delivered"
        await devices[1].close()

        async def is_let_in() -> Device | None:
            try:
                return await connect(server, "c3")
            except InvalidStatus:
                return None

        await eventually(is_let_in, "there is room again")
        assert await api.direct("c3", "here") == "delivered"


async def test_messages_and_their_frames(serve: Serve) -> None:
    server = serve("server.workers=1", "connections.inbound_message_bytes=1000", "connections.inbound_fragments=3")
    async with Api(server.api) as api:
        too_long, too_many = frame(TEXT, b"x" * 1001), frame(TEXT, fin=False) + 3 * frame(0, fin=False)
        for number, said in enumerate((too_long, too_many)):
            raw = await Raw.open(server, upgrade("c"))
            await raw.send(said)
            assert (await raw.closed())[0] == 1009
            await raw.close()
            await api.until_counted("zpush_closes_total", number + 1, code="1009")
        raw = await Raw.open(server, upgrade("c"))
        await raw.send(frame(TEXT, b"x" * 1000) + frame(TEXT, fin=False) + frame(0, fin=False) + frame(0))
        assert await read_numbers(raw) == []
        await raw.close()


async def test_heads(serve: Serve) -> None:
    server = serve("server.workers=1", "connections.head_bytes=1KiB", "connections.head_fields=10")
    async with Api(server.api) as api:
        too_large = [upgrade("c", b"X: " + b"x" * 1000), upgrade("c", *[b"X: x"] * 10)]
        too_large.append(upgrade("c", b"Sec-WebSocket-Protocol: " + b"zpush.token." + b"x" * 1000))
        for number, request in enumerate(too_large):
            raw = await Raw.connect(server.clients)
            await raw.send(request)
            assert (await raw.rest()).startswith(b"HTTP/1.1 431 ")
            await api.until_counted("zpush_handshakes_total", number + 1, result="too_large")
            await raw.close()


async def test_pushes_of_a_client(serve: Serve, connect: Connect) -> None:
    """Zuul Push's three in two seconds, here in an hour; queued, direct, and for an event stream as well."""
    server = serve("server.workers=1", "connections.outbound_messages=3", "connections.outbound_window=1h")
    device, other = await connect(server, "c"), await connect(server, "other")
    async with Api(server.api) as api:
        outcomes = [await api.direct("c", str(n)) for n in range(4)]
        assert outcomes == ["delivered"] * 3 + ["rate_limited"]
        await api.push({"client": "c"}, text="queued")
        await api.until_counted("zpush_messages_total", 2, outcome="rate_limited")
        assert await device.receive_all(3) == ["0", "1", "2"]
        assert await api.direct("other", "not its fault") == "delivered"
        assert await other.receive() == "not its fault"


async def test_a_slow_consumer_may_lose_the_newest_instead_of_its_connection(serve: Serve) -> None:
    limits = ("connections.slow_consumer=drop", "connections.unsent_bytes=64KiB", "connections.unsent_age=10m")
    server = serve("server.workers=1", *limits)
    slow = await Raw.open(server, upgrade("slow"), receive_bytes=4096)
    async with Api(server.api) as api:
        await queue(api, numbered("slow", 100))

        async def most_are_dropped() -> bool:
            return (await api.metrics()).total("zpush_messages_total", outcome="dropped") > 50

        await eventually(most_are_dropped, "what finds no room is dropped")
        found = await read_numbers(slow)
        metrics = await api.until_counted("zpush_messages_total", 100)
        # Six have room in the write buffer. The kernel may take more of it at any time, and then a later one has room.
        assert found[:6] == list(range(6)), "the oldest are kept"
        assert found == sorted(set(found)), "in order, none twice"
        assert metrics.total("zpush_messages_total", outcome="delivered") == len(found)
        assert metrics.total("zpush_closes_total") == 0
        assert await api.direct("slow", "0 all is well again") == "delivered"
        assert await read_numbers(slow) == [0]
        assert metrics.total("zpush_unsent_bytes") == 0
    await slow.close()


async def test_the_age_of_unsent_bytes(serve: Serve) -> None:
    """A few bytes, far from any mark, that nobody takes."""
    server = serve("server.workers=1", "connections.unsent_age=1s", "connections.unsent_bytes=64MiB")
    slow = await Raw.open(server, upgrade("slow"), receive_bytes=4096)
    async with Api(server.api) as api:
        await queue(api, numbered("slow", 20))
        metrics = await api.until_counted("zpush_messages_total", 20)
        assert metrics.total("zpush_closes_total", code="4004") == 1
        assert metrics.total("zpush_messages_total", outcome="dropped") > 0
        assert await api.direct("slow", "gone") == "offline"
    await slow.close()


async def test_a_workers_budget_is_paid_by_the_largest_debtor(serve: Serve) -> None:
    limits = ("connections.unsent_budget_bytes=1MiB", "connections.unsent_bytes=1MiB", "connections.unsent_age=10m")
    server = serve("server.workers=1", *limits)
    debtors = {name: await Raw.open(server, upgrade(name), receive_bytes=4096) for name in ("small", "large", "third")}
    async with Api(server.api) as api:
        for name, count in (("small", 30), ("third", 30), ("large", 200)):
            await queue(api, numbered(name, count))
        await api.until_counted("zpush_closes_total", 1, code="4004")
        for name in ("small", "third"):
            assert await read_numbers(debtors[name]) == list(range(30)), "it was not theirs to pay"
        metrics = await api.until_counted("zpush_messages_total", 260)
        assert metrics.total("zpush_messages_total", outcome="dropped") > 50
        assert metrics.total("zpush_closes_total") == 1

        async def given_back() -> bool:
            found = await api.metrics()
            held = found.total("zpush_engine_allocations_total") - found.total("zpush_engine_frees_total")
            return found.total("zpush_unsent_bytes") == held == 0

        await eventually(given_back, "no buffer is left")
    for raw in debtors.values():
        await raw.close()
