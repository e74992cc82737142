"""The system's Chromium, driven by Playwright, and why it may not be there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Page, async_playwright

from tests.support import lacking

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
ARGUMENTS = [
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def browser_page(url: str, width: int = 1100, height: int = 1000) -> AsyncIterator[Page]:
    """The page at this URL. Fails where it logged an error or asked any other host than its own."""
    if not CHROMIUM:
        lacking("chromium is not installed (Debian: apt-get install chromium)")
    complaints: list[str] = []
    host = url.split("/")[2].partition(":")[0]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            context = await browser.new_context(viewport={"width": width, "height": height})
            page = await context.new_page()
            page.set_default_timeout(30_000)
            page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}") if m.type == "error" else None)
            page.on("pageerror", lambda e: complaints.append(str(e)))
            page.on("request", lambda r: None if r.url.split("/")[2].startswith(host) else complaints.append(r.url))
            await page.goto(url)
            yield page
        finally:
            await browser.close()
    assert not complaints
