"""The demo page in a real browser, served by a real `zpush serve`; and zpush.js there."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.road.api import Api
from tests.road.server import Server
from tests.support import run_zpush
from tests.web.browser import browser_page
from zpush.server.command import command

SETTINGS = ("connections.max_age=2s", "connections.max_age_jitter=0s", "connections.go_away_grace=4s")
CARDS = ("#websocket", "#sse")
expect.set_options(timeout=30_000)  # as for all else on a page


async def until_open(page: Page) -> list[str]:
    """The ids of the two clients, which are connected."""
    for card in CARDS:
        await expect(page.locator(f"{card} .badge")).to_have_text("open")
    return [await page.locator(f"{card} .id").inner_text() for card in CARDS]


async def test_what_the_form_pushes_arrives_at_both(server: Server, tmp_path: Path) -> None:
    async with browser_page(server.api) as page:
        await until_open(page)
        await expect(page.locator("#ready")).to_have_text("server ready")
        await page.fill("[name=payload]", "Hello, <b>both</b>\nof you")
        await page.click("#push button")
        for card in CARDS:
            await expect(page.locator(f"{card} .messages pre")).to_have_text("Hello, <b>both</b>\nof you")
        await expect(page.locator("#answers li").first).to_contain_text("queued ")
        await page.screenshot(path=tmp_path / "demo.png", full_page=True)
        assert (tmp_path / "demo.png").stat().st_size > 10_000


async def test_direct_pushes_tell_what_became_of_them(server: Server) -> None:
    async with browser_page(server.api) as page:
        socket, stream = await until_open(page)
        await page.check("[name=direct]")
        await page.click("#push button")
        await expect(page.locator("#answers li").first).to_have_text(f"delivered {socket}, delivered {stream}")
        await page.select_option("[name=to]", "other")
        await page.fill("[name=other]", "nobody")
        await page.click("#push button")
        await expect(page.locator("#answers li").first).to_have_text("offline nobody")
        await page.check("[name=json]")
        await page.fill("[name=payload]", "{not json")
        await page.click("#push button")
        await expect(page.locator("#answers li.bad")).to_have_count(1)
        await page.select_option("[name=to]", "websocket")
        await page.fill("[name=payload]", '{"big": 12345678901234567890}')
        await page.click("#push button")
        await expect(page.locator("#answers li").first).to_have_text(f"delivered {socket}")
        await expect(page.locator("#websocket .messages li")).to_have_count(2)
        await expect(page.locator("#sse .messages li")).to_have_count(1)


async def test_the_commands_run_as_they_stand_there(server: Server) -> None:
    async with browser_page(server.api) as page:
        await until_open(page)
        direct = (await page.locator("#commands").inner_text()).splitlines()[1]
        done = await asyncio.to_thread(run_zpush, *shlex.split(direct)[1:])
        assert (done.returncode, done.stdout) == (0, "delivered\n"), done.stderr
        await expect(page.locator("#sse .messages pre")).to_have_text('{"hello":1}')
        await page.fill("[name=payload]", "by the keyboard")
        await page.press("[name=payload]", "Control+Enter")
        await expect(page.locator("#websocket .messages pre")).to_have_text("by the keyboard")


async def test_disconnecting_and_being_disconnected(server: Server, api: Api) -> None:
    async with browser_page(server.api) as page:
        for card, client_id in zip(CARDS, await until_open(page), strict=True):
            badge, button = page.locator(f"{card} .badge"), page.locator(f"{card} button")
            await button.click()
            await expect(badge).to_have_text("stopped")
            await button.click()
            await expect(badge).to_have_text("open")
            assert (await api.http.delete(f"/v1/clients/{client_id}")).status_code == 200
            await expect(badge).to_have_text("stopped")
            await expect(page.locator(f"{card} .detail")).to_contain_text("4005")


async def test_a_second_tab_is_two_other_clients_and_a_reload_the_same(server: Server) -> None:
    async with browser_page(server.api) as page:
        ids = await until_open(page)
        await page.reload()
        assert await until_open(page) == ids
        other = await page.context.new_page()
        await other.goto(server.api)
        assert not set(await until_open(other)) & set(ids)
        await until_open(page)


COUNT_STATES = """(card) => {
  window.states = [];
  new MutationObserver(() => window.states.push(document.querySelector(card + " .badge").textContent))
    .observe(document.querySelector(card + " .badge"), {childList: true});
}"""


@pytest.mark.parametrize("card", CARDS)
async def test_nothing_is_missed_over_a_hand_over(server: Server, api: Api, card: str) -> None:
    """The connections of this server live for two seconds."""
    async with browser_page(server.api) as page:
        ids = await until_open(page)
        client_id = ids[CARDS.index(card)]
        await page.evaluate(COUNT_STATES, card)
        sent, states = 0, list[str]()
        while "open" not in states:
            for _ in range(10):
                assert await api.direct(client_id, f"message {sent}") == "delivered"
                sent += 1
            states = await page.evaluate("window.states")
        await page.wait_for_function(
            "([card, text]) => document.querySelector(card + ' .messages pre')?.textContent === text",
            arg=[card, f"message {sent - 1}"],
        )
        shown: list[Any] = await page.locator(f"{card} .messages pre").all_inner_texts()
    assert shown == [f"message {i}" for i in range(sent)][::-1][:100]
    assert set(states) <= {"open", "handing over"}


async def test_the_page_on_a_phone(server: Server) -> None:
    async with browser_page(server.api, width=360, height=740) as page:
        await until_open(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_types_and_script_are_served_too(server: Server, api: Api) -> None:
    for name, content_type in (
        ("zpush.js", "text/javascript"),
        ("zpush.d.ts", "text/plain"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer = await api.http.get(f"/{name}")
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, content_type)
    facts = await api.get("/demo.json")
    assert facts == {
        "client_port": int(server.clients.rpartition(":")[2]),
        "auth": "dev",
        "key": False,
        "command": command(),
    }
