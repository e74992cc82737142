"""Health, metrics, pages, unknown paths and methods of the API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx

from tests.server.api_world import SETTINGS, World, api_world, error, zuul
from tests.server.raw_http import connected, serving
from zpush.errors import QueueFull
from zpush.scoreboard import API_STATUSES
from zpush.server.http_message import error_response
from zpush.server.pages import load_pages


async def test_health_and_readiness(world: World) -> None:
    assert (await world.http.get("/healthz")).text == "ok\n"
    assert (await world.http.get("/readyz")).json() == {"ready": True, "reason": ""}
    world.not_ready = "registry: connection refused"
    response = await world.http.get("/readyz")
    assert (response.status_code, response.json()["reason"]) == (503, "registry: connection refused")
    assert (await world.http.get("/healthz")).status_code == 200


async def test_metrics_are_served(world: World) -> None:
    await world.push(to={"client": "c1"}, text="x", direct=True)
    response = await world.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'zpush_messages_total{outcome="delivered",priority="normal"} 1.0' in response.text


async def test_answers_are_counted_by_their_status(world: World) -> None:
    """Also those of the parser, of which no call knows."""

    def counted() -> dict[str, int]:
        return {s: n for s in (*API_STATUSES, "other") if (n := world.row.get(f"api_responses_{s}"))}

    await world.push(to={"client": "c1"}, text="x")
    await world.push(to={"client": "c1"}, text="x", direct=True)
    await world.push(to={}, text="x")
    await world.push(to={"client": "c1"}, text="x" * 70_000)
    await world.http.post("/v1/push", content=b"{}", headers={"Content-Type": "text/plain"})
    await world.http.get("/v1/nodes", headers={"Host": "evil.example"})
    assert await zuul(world, "POST", "c1", body=b"") == 204
    world.queue.refuse["*"] = QueueFull("full")
    await world.push(to={"client": "c1"}, text="x")
    ours = {200: 1, 202: 1, 204: 1, 400: 1, 403: 1, 413: 1, 415: 1, 503: 1}
    assert counted() == ours
    for head, status in {
        b"GET / HTTP/1.1\r\n\r\n": 400,
        b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 9000: 431,
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n": 501,
    }.items():
        async with connected(world.port) as client:
            client.send(head)
            assert (await client.answer()).status == status
    assert counted() == {**ours, 400: 2, 431: 1, "other": 1}
    text = (await world.http.get("/metrics")).text
    assert 'zpush_api_responses_total{status="431"} 1.0' in text
    assert 'zpush_api_responses_total{status="other"} 1.0' in text


async def test_unknown_paths_and_methods(world: World) -> None:
    assert error(await world.http.get("/v2/push"))[:2] == (404, "not_found")
    assert error(await world.http.get("/../../etc/passwd"))[:2] == (404, "not_found")
    response = await world.http.get("/v1/push")
    assert error(response)[:2] == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert (await world.http.options("/v1/push")).status_code == 405
    assert (await world.http.head("/v1/nodes")).status_code == 200


async def test_the_demo_page_belongs_to_embedded_mode(world: World) -> None:
    away = replace(SETTINGS.registry, url="redis://127.0.0.1"), replace(SETTINGS.queue, url="redis://127.0.0.1")
    async with api_world(replace(SETTINGS, registry=away[0], queue=away[1])) as plain:
        assert (await plain.http.get("/")).status_code == 404


async def test_pages_are_the_files_of_their_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no")
    web = tmp_path / "web"
    (web / "sub").mkdir(parents=True)
    for name in ("index.html", "zpush.js", "sub/a.css", "notes.md"):
        (web / name).write_text(name)
    (tmp_path / "outside.js").write_text("no")
    pages = load_pages(web)
    assert set(pages) == {"/", "/index.html", "/zpush.js", "/sub/a.css"}
    async with (
        serving(lambda request: pages.get(request.path) or error_response(404, "not_found", "")) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        page = await http.get("/")
        assert (page.text, page.headers["content-type"]) == ("index.html", "text/html; charset=utf-8")
        assert (page.headers["x-frame-options"], page.headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert (await http.get("/zpush.js")).headers["content-type"].startswith("text/javascript")
        for path in ("/%2e%2e/secret", "/sub", "/notes.md", "/../outside.js"):
            assert (await http.get(path)).status_code == 404
