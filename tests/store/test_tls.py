"""TLS with certificates on both sides, for each kind of URL. Debian's Redis speaks it; this Valkey binary does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.certificate import self_signed
from tests.store.servers import Binary, Sentinel, Server, debian_redis
from tests.store.stores import started
from tests.support import free_port, lacking, wait_until
from zpush.store import Store


class Secured:
    """Servers that talk to nobody without a certificate, at their TLS ports. options: of a URL that has one."""

    def __init__(self, directory: Path, binary: Binary) -> None:
        certificate, key = self_signed(directory, "127.0.0.1")
        self._directory = directory
        self._binary = binary
        self._settings = {
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_ca_cert_file": str(certificate),
            "tls_replication": "yes",
        }
        self.trusting = f"ssl_ca_certs={certificate}"
        self.options = f"{self.trusting}&ssl_certfile={certificate}&ssl_keyfile={key}"
        self.servers: list[Server] = []

    def start(self, **settings: str) -> str:
        """Its TLS address."""
        port = free_port()
        server = Server(self._directory, self._binary, tls_port=str(port), **self._settings, **settings)
        self.servers.append(server)
        server.start()
        return f"127.0.0.1:{port}"

    def watch(self, address: str) -> str:
        """A Sentinel's TLS address."""
        port = free_port()
        sentinel = Sentinel(self._directory, self._binary)
        self.servers.append(sentinel)
        tls = [f"{name.replace('_', '-')} {value}" for name, value in self._settings.items()]
        sentinel.write("main", address, 1, f"tls-port {port}", *tls)
        sentinel.start()
        return f"127.0.0.1:{port}"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    binary = debian_redis()
    if binary is None:
        lacking("redis-server is not installed (Debian: apt-get install redis-tools)")
    with contextlib.ExitStack() as stack:
        made = Secured(tmp_path, binary)
        stack.callback(lambda: [server.kill() for server in made.servers])
        yield made


async def check(url: str, secured: Secured) -> None:
    async with started(f"{url}?{secured.options}") as store:
        assert store.up and not store.reason, store.reason
        assert await store.call("k", "SET", "k", "1") == b"OK"
        assert await store.mget(["k", "none"]) == [b"1", None]
    async with started(url) as store:
        assert not store.up and "CERTIFICATE_VERIFY_FAILED" in store.reason
    async with started(f"{url}?{secured.trusting}") as store:
        await _is_refused(store)


async def _is_refused(store: Store) -> None:
    """TLS 1.3 tells who has no certificate only after the handshake."""
    assert not store.up
    assert "CERTIFICATE_REQUIRED" in store.reason or "closed the connection" in store.reason, store.reason


async def test_one_server(secured: Secured) -> None:
    await check(f"rediss://{secured.start()}", secured)


async def test_a_cluster(secured: Secured) -> None:
    address = secured.start(cluster_enabled="yes", cluster_port=str(free_port()), tls_cluster="yes")
    [node] = secured.servers
    node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: "cluster_state:ok" in str(node.command("CLUSTER", "INFO")), "the cluster is well")
    await check(f"rediss+cluster://{address}", secured)


async def test_sentinels(secured: Secured) -> None:
    await check(f"rediss+sentinel://{secured.watch(secured.start())}/main", secured)
