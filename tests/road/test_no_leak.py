"""50,000 connections come and go in every way, and nothing is left of them: no block, descriptor, byte or key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
import redis

from tests.road import herd
from tests.road.api import Metrics
from tests.road.bystanders import descriptors, resident_bytes
from tests.road.server import Server
from tests.support import wait_until

SETTINGS = (
    "connections.handshake_timeout=1s",
    "connections.keepalive=4s",
    "connections.pong_timeout=1s",
    "connections.unsent_bytes=8KiB",
    "connections.notsent_lowat_bytes=1KiB",
)
QUICK = {"cleanly": 24, "abruptly": 22, "by_reset": 22, "refused": 18, "replaced": 10, "by_operators": 4}  # percent
PATIENT = {"too_slow_to_ask": 1000, "deaf": 500, "stuck": 250}  # all at once: they wait for deadlines
WARM_UP = 4_000
ALL = 50_000
SLOT_MARGIN_BYTES = 1 << 20  # slots stay, and a slow worker has more in use at once; 46,000 that leaked were 5 MB
MARGIN_BYTES = 8 << 20  # of a worker, heap holes included; if each connection left 350 bytes, it would be passed
PUSH = json.dumps({"text": "x" * 6_000})[1:-1]
PUSHES = 10  # kernels take a third of that
BACK_S = 30.0
SHORT_LIVED_MS = 60_000  # a lease lives twenty minutes


class Herds:
    """All ways to go, on one server."""

    def __init__(self, server: Server, api: httpx.Client) -> None:
        host, _, port = server.clients.rpartition(":")
        self._address = host, int(port)
        self._api = api

    def come_and_go(self, quick: int) -> int:
        """How many came."""
        came = {name: quick * share // 100 for name, share in QUICK.items()}
        by_operators = partial(herd.by_operators, disconnect=self._disconnect)
        for name, count in came.items():
            way = by_operators if name == "by_operators" else getattr(herd, name)
            herd.in_waves(count, partial(way, self._address))
        patient = herd.too_slow_to_ask(self._address, PATIENT["too_slow_to_ask"])
        patient += herd.deaf(self._address, PATIENT["deaf"])
        stuck = herd.stuck(self._address, PATIENT["stuck"], self._push)
        herd.ended(patient)
        wait_until(lambda: not metrics_of(self._api).total("zpush_connections"), "everybody is gone", BACK_S)
        herd.ended(stuck)
        return sum(came.values()) + sum(PATIENT.values())

    def _disconnect(self, client_id: str) -> None:
        """Once it is found: of so many at once some are let in before their lease is written."""
        wait_until(lambda: self._api.delete(f"/v1/clients/{client_id}").status_code == 200, f"{client_id} is found")

    def _push(self, client_ids: list[str]) -> None:
        lines = [f'{{"to":{{"client":"{client_id}"}},{PUSH}}}\n' for client_id in client_ids]
        for _ in range(PUSHES):
            response = self._api.post(
                "/v1/push", content="".join(lines), headers={"Content-Type": "application/x-ndjson"}
            )
            assert response.text.count('"queued":true') == len(lines)


def metrics_of(api: httpx.Client) -> Metrics:
    return Metrics(api.get("/metrics").text)


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    limits = httpx.Limits(keepalive_expiry=None)
    with httpx.Client(base_url=server.api, trust_env=False, timeout=20.0, limits=limits) as it:
        yield it


@pytest.mark.slow
def test_fifty_thousand_connections_leave_nothing(server: Server, api: httpx.Client) -> None:
    herds = Herds(server, api)
    pids = [server.pid_of("workers", slot) for slot in (0, 1)]
    with redis.Redis.from_url(server.queue_url) as valkey:
        assert api.get("/readyz").status_code == 200
        came = herds.come_and_go(WARM_UP)
        before = at_rest(api)
        keys = lasting(valkey)
        opened = [descriptors(pid) for pid in pids]
        resident = [resident_bytes(pid) for pid in pids]
        came += herds.come_and_go(ALL - came - sum(PATIENT.values()))
        after = at_rest(api)
        assert came == ALL
        assert after.total("zpush_accepted_connections_total") == after.total("zpush_handshakes_total") == ALL
        assert after.total("zpush_engine_allocations_total") > ALL
        memory = after.total("zpush_engine_memory_bytes") - before.total("zpush_engine_memory_bytes")
        assert memory < SLOT_MARGIN_BYTES
        wait_until(lambda: [descriptors(pid) for pid in pids] == opened, "descriptors are back")
        for pid, bytes_before in zip(pids, resident, strict=True):
            assert resident_bytes(pid) - bytes_before < MARGIN_BYTES
        wait_until(lambda: lasting(valkey) <= keys, "keys are back")
    assert [server.pid_of("workers", slot) for slot in (0, 1)] == pids
    for result in ("ok", "timeout", "too_large", "malformed", "unauthorized", "not_found", "version"):
        assert after.total("zpush_handshakes_total", result=result) > 0, result
    for code in ("1000", "1006", "4002", "4004", "4005"):
        assert after.total("zpush_closes_total", code=code) > 0, code


def lasting(valkey: redis.Redis) -> set[bytes]:
    """Keys that nothing writes again every few seconds: those may be missing for a moment on a busy machine."""
    return {key for key in valkey.scan_iter(count=1000) if not 0 <= valkey.pttl(key) < SHORT_LIVED_MS}


def at_rest(api: httpx.Client) -> Metrics:
    """When the last of them is gone."""

    def rest() -> Metrics | None:
        metrics = metrics_of(api)
        balance = metrics.total("zpush_engine_allocations_total") - metrics.total("zpush_engine_frees_total")
        return metrics if not balance and not metrics.total("zpush_connections") else None

    metrics = wait_until(rest, "what was allocated is freed", BACK_S)
    assert metrics is not None
    return metrics
