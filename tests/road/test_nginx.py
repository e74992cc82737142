"""A real nginx in between, with no more configuration than docs/handshake.md asks for."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.road.api import Api
from tests.road.devices import open_device, open_stream
from tests.road.server import Server
from tests.support import end, free_port, lacking, spawn, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

SETTINGS = ("server.workers=1", "connections.keepalive=1s", "connections.trusted_proxies=127.0.0.1")
CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://{clients}; }}
        location /ws {{
            proxy_pass http://{clients};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
        location = /forgotten {{ proxy_pass http://{clients}/ws; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server as its clients see it: by nginx's address."""
    if NGINX is None:
        lacking("nginx is not installed (Debian: apt-get install nginx)")
    directory: Path = tmp_path_factory.mktemp("nginx")
    port = free_port()
    file = directory / "nginx.conf"
    file.write_text(CONFIGURATION.format(directory=directory, port=port, clients=server.clients))
    with open(directory / "log", "w") as log:
        process = spawn(NGINX, "-p", directory, "-c", file, stdout=log, stderr=log)

    def listens() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    direct = server.clients
    try:
        wait_until(listens, "nginx listens")
        server.clients = f"127.0.0.1:{port}"
        yield server
    finally:
        server.clients = direct
        end(process)


async def test_events_arrive_one_by_one(nginx: Server, api: Api, name: str) -> None:
    """Nothing but `proxy_pass`: HTTP/1.0 towards us, and buffers that would hold an event back."""
    async with open_stream(nginx, name) as stream:
        for number in range(5):
            assert await api.direct(name, f"{number}") == "delivered"
            assert (await stream.receive()).data == f"{number}"
        assert (await api.http.delete(f"/v1/clients/{name}")).status_code == 200
        assert [event.data for event in await stream.rest()] == ["4005"]


async def test_comments_pass(nginx: Server, name: str) -> None:
    async with (
        httpx.AsyncClient(base_url=f"http://{nginx.clients}", trust_env=False, timeout=30.0) as client,
        client.stream("GET", "/sse", params={"client": name}) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith(":"):
                return
    raise AssertionError("the stream ended")


async def test_a_websocket(nginx: Server, api: Api, name: str) -> None:
    device = await open_device(nginx, name, subprotocols=["zpush.v1"])
    assert await api.direct(name, "hello") == "delivered"
    assert (await device.receive_json())["data"] == "hello"
    await device.connection.send(json.dumps({"ping": 1}))
    assert await device.receive_json() == {"pong": 1}
    await device.close()


async def test_what_was_forgotten_is_told(nginx: Server) -> None:
    """A WebSocket through a location that does not pass the upgrade on."""
    async with httpx.AsyncClient(base_url=f"http://{nginx.clients}", trust_env=False) as client:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        response = await client.get("/forgotten?client=c", headers=headers)
    assert response.status_code == 400
    assert "proxy_http_version 1.1" in response.json()["error"]["message"]
