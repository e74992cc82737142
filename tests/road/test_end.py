"""How a run ends, and how one does not begin."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket

import httpx
import pytest
from websockets.exceptions import InvalidMessage, InvalidStatus

from tests.road.api import Api
from tests.road.devices import Connect, Spread, open_stream
from tests.road.server import Serve, Server
from tests.support import run_zpush, wait_until


async def test_term_asks_clients_to_go_then_closes_and_exits_0(
    serve: Serve, spread: Spread, connect: Connect, name: str
) -> None:
    server = serve()
    obedient, stubborn = await spread(server)
    v1 = await connect(server, f"{name}-v1", subprotocols=["zpush.v1"])
    async with open_stream(server, f"{name}-stream") as stream:
        server.process.send_signal(signal.SIGTERM)
        assert await obedient.receive() == "_CLOSE_"
        await obedient.close()
        assert await stubborn.receive() == "_CLOSE_"
        goaway = (await v1.receive_json())["go_away"]
        assert goaway["reconnect_in_ms"] >= 0
        asked, closed = await stream.rest()
        assert (asked.event, asked.data) == ("goaway", "_CLOSE_")
        assert (closed.event, closed.data) == ("close", "1001")
    assert await stubborn.close_code() == 1001
    assert await v1.close_code() == 1001
    assert await asyncio.to_thread(server.stop) == 0
    assert server.all_gone()


async def test_a_draining_server_takes_no_new_clients_and_delivers_to_those_it_has(
    serve: Serve, connect: Connect, name: str
) -> None:
    server = serve("connections.go_away_grace=5s")
    async with Api(server.api) as api:
        await api.metrics()  # the connection stays, as a load balancer's or a sender's would
        device = await connect(server, name)
        server.process.send_signal(signal.SIGTERM)
        assert await device.receive() == "_CLOSE_"
        assert await api.direct(name, "still here") == "delivered"
        assert await device.receive() == "still here"
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
        # The other worker leaves: the kernel refuses for it, or resets what it has not taken up yet.
        with contextlib.suppress(ConnectionError, InvalidMessage):
            with pytest.raises(InvalidStatus) as refused:
                await connect(server, f"{name}-late")
            assert refused.value.response.status_code == 503
            assert int(refused.value.response.headers["Retry-After"]) > 0
        await device.close()
    assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_int_and_quit_close_at_once(serve: Serve, spread: Spread, number: signal.Signals) -> None:
    server = serve("connections.go_away_grace=1m")
    devices = await spread(server)
    server.process.send_signal(number)
    assert [await device.close_code() for device in devices] == [1001, 1001]
    assert await asyncio.to_thread(server.stop, number) == 0
    assert server.all_gone()


async def test_senders_are_answered_before_the_end(serve: Serve, spread: Spread) -> None:
    """A request that is under way when TERM comes gets its answer."""
    server = serve()
    device, _ = await spread(server)
    async with Api(server.api) as api:
        with server.paused("workers", 0):  # the client's: whoever asks has to wait
            pushes = [asyncio.create_task(api.direct(device.client_id, str(n))) for n in range(4)]
            done, _ = await asyncio.wait(pushes, timeout=0.2)
            assert not done
            server.process.send_signal(signal.SIGTERM)
            server.until(lambda status: status["state"] == "ending", "the end has begun")
        assert await asyncio.gather(*pushes) == ["delivered"] * 4
    assert sorted(await device.rest()) == ["0", "1", "2", "3", "_CLOSE_"]
    assert await asyncio.to_thread(server.stop) == 0


def test_a_wrong_configuration_is_one_line_and_2() -> None:
    refused = run_zpush("serve", "--set", "server.workers=many")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert "server.workers" in refused.stderr and '"many"' in refused.stderr


@pytest.mark.parametrize("setting", ["server.bind", "api.bind"])
def test_a_port_that_is_taken_is_one_line_and_1(tmp_path: object, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        binds = {"server.bind": "127.0.0.1:0", "api.bind": "127.0.0.1:0", setting: f"127.0.0.1:{port}"}
        sets = [part for key, value in binds.items() for part in ("--set", f"{key}={value}")]
        refused = run_zpush("serve", *sets, "--set", "peers.port=0", "--set", f"server.data_dir={tmp_path}")
    assert refused.returncode == 1
    [line] = [line for line in refused.stderr.splitlines() if not line.startswith("{")]
    assert setting in line and str(port) in line


def test_a_data_directory_in_use_is_refused_with_the_pid(server: Server) -> None:
    second = server.spawn("-m", "zpush", "serve")
    assert second.wait(20) == 1
    assert f"pid {server.process.pid}" in server.output.read_text()
    server.until_ready()


def test_what_it_prints_is_where_it_is(server: Server) -> None:
    printed = wait_until(lambda: "ready" in (text := server.output.read_text()) and text, "the ready lines")
    assert f"ws://{server.clients}/ws?client=ID" in str(printed)
    assert f"{server.api}/v1/push" in str(printed)
    assert httpx.get(f"{server.api}/healthz", trust_env=False).status_code == 200
