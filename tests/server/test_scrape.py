"""What a `zpush process` answers, and whom. That it does is tested on the road."""

from __future__ import annotations

import inspect
import json

import pytest

from zpush.config import load
from zpush.scoreboard import PROCESSOR, Row, Scoreboard
from zpush.server.http_message import HttpRequest, HttpResponse, Route
from zpush.server.scrape import Scrape

KEY = "0123456789abcdef"
OPEN = ("processor.metrics_bind=127.0.0.1:0",)
KEYED = (f"api.keys=read:{KEY}", "processor.metrics_bind=0.0.0.0:0")


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard()


def processor(board: Scoreboard, slot: int) -> Row:
    row = board.rows[board.claim(PROCESSOR, slot)]
    for gauge in ("ready", "registry_up", "queue_up"):
        row.set(gauge, 1)
    return row


async def ask(
    board: Scoreboard, path: str, *overrides: str, method: str = "GET", key: str = "", host: str = "localhost"
) -> HttpResponse:
    headers = {b"host": host.encode(), **({b"authorization": f"Bearer {key}".encode()} if key else {})}
    request = HttpRequest(method, path, "", headers, False, True, False, 0)
    found = Scrape(load(None, {}, list(overrides or OPEN)), board)(request)
    answer = found.answer(request) if isinstance(found, Route) else found
    return await answer if inspect.isawaitable(answer) else answer


async def test_metrics_are_the_sum_of_all_processors(board: Scoreboard) -> None:
    for slot in range(2):
        processor(board, slot).add("taken_high", 3)
    text = (await ask(board, "/metrics")).body.decode()
    assert 'zpush_taken_total{priority="high"} 6.0' in text


async def test_ready_is_who_reaches_registry_and_queue(board: Scoreboard) -> None:
    async def ready() -> tuple[int, str]:
        response = await ask(board, "/readyz")
        return response.status, json.loads(response.body)["reason"]

    assert await ready() == (503, "no processor is ready")
    one, _ = processor(board, 0), processor(board, 1)
    assert await ready() == (200, "")
    one.set("queue_up", 0)
    assert await ready() == (503, "queue away")
    one.set("ready", 0)
    assert await ready() == (200, ""), "one that starts or leaves is no reason"


async def test_the_guard_is_the_apis(board: Scoreboard) -> None:
    assert (await ask(board, "/metrics", host="example.com")).status == 403
    assert (await ask(board, "/metrics", *KEYED)).status == 401
    assert (await ask(board, "/metrics", *KEYED, key=KEY)).status == 200
    assert (await ask(board, "/healthz", *KEYED)).status == 200


async def test_there_is_nothing_else(board: Scoreboard) -> None:
    assert (await ask(board, "/v1/push", method="POST")).status == 404
    assert (await ask(board, "/metrics", method="POST")).status == 405
