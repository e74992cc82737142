"""`zpush trace`, on each back end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import signal
import sys
import time
from typing import Any

import pytest

from tests.cli.conftest import RunOn, options_of
from tests.queue.backends import Backend
from tests.support import end, eventually, spawn
from zpush.cli.main import main
from zpush.protocol.message import made_ms, new_id
from zpush.queue.open import open_receipt_writer, open_topics
from zpush.queue.receipt import Receipt, encode

ON = ("queue.receipts=true",)
SETTLED_MS = 1_700_000_000_123
STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture
async def site(backend: Backend) -> Backend:
    """With what receipts need."""
    url: str = backend.server.url  # type: ignore[attr-defined] # every server has one
    topics = open_topics(dataclasses.replace(backend.queue(), receipts=True), url, 30.0)
    if topics is not None:
        await asyncio.to_thread(topics.create, await asyncio.to_thread(topics.missing))
    return backend


def receipt(id: str, client: str = "c1", **fields: Any) -> Receipt:
    given = {"outcome": "delivered", "queued_ms": SETTLED_MS - 12, "settled_ms": SETTLED_MS, **fields}
    return Receipt(id=id, client=client, priority="normal", region="eu", **given)


async def write(site: Backend, *receipts: Receipt) -> None:
    url: str = site.server.url  # type: ignore[attr-defined] # every server has one
    writer = open_receipt_writer(site.queue(), url)
    await writer.start()
    done: list[bool] = []
    for each in receipts:
        writer.write(each, done.append)
    await eventually(lambda: done == [True] * len(receipts))
    await writer.stop()


async def test_what_became_of_a_message(site: Backend, run_on: RunOn) -> None:
    id = new_id()
    await write(
        site,
        receipt(id, node="ab12"),
        receipt(id, "phone", user="u1", outcome="offline", redelivered=True),
        receipt(id, "", user="u1", outcome="offline"),
        receipt(id, "", outcome="", counts={"delivered": 3, "dropped": 1}),
        receipt(new_id()),
    )
    code, out, err = await run_on(site, "trace", id, sets=ON)
    assert (code, err) == (0, "")
    at = "2023-11-14 22:13:20.123"
    assert out.splitlines() == [
        f"{at}  delivered     c1  after 12 ms, normal, node ab12, region eu",
        f"{at}  offline       phone  after 12 ms, user u1, normal, region eu, redelivered",
        f"{at}  offline       no client  after 12 ms, user u1, normal, region eu",
        f"{at}  all           delivered 3, dropped 1  after 12 ms, normal, region eu",
    ]


async def test_as_json_for_scripts(site: Backend, run_on: RunOn) -> None:
    id = new_id()
    await write(site, receipt(id, "клиент", node="ab12"), receipt(id, "", outcome="", counts={"offline": 1}))
    code, out, _ = await run_on(site, "trace", id, "--json", sets=ON)
    one, two = map(json.loads, out.splitlines())
    assert (code, one["client"], one["outcome"], one["redelivered"]) == (0, "клиент", "delivered", False)
    assert (one["queued_ms"], one["settled_ms"]) == (SETTLED_MS - 12, SETTLED_MS)
    assert two["counts"] == {"offline": 1} and one["counts"] == {}


async def test_no_receipt_is_exit_code_3(site: Backend, run_on: RunOn) -> None:
    id = new_id()
    code, out, err = await run_on(site, "trace", id, sets=ON)
    assert (code, out) == (3, "")
    assert re.fullmatch(rf"no receipt of {id} since [0-9: .-]+ UTC\n", err)


async def test_since_decides_where_reading_begins(site: Backend, run_on: RunOn) -> None:
    """An id that zpush made tells it by itself; of another one the last hour is read."""
    await write(site, receipt("order-17"))
    assert (await run_on(site, "trace", "order-17", sets=ON))[0] == 0
    assert (await run_on(site, "trace", "order-17", "--since", "0s", sets=ON))[0] == 3
    later = f"{time.time_ns() // 1_000_000 + 70_000:012x}aaaaaaaaaaaa"
    assert made_ms(later)
    await write(site, receipt(later))
    assert (await run_on(site, "trace", later, sets=ON))[0] == 0, "the sender's clock was ahead"


async def test_following_shows_what_comes(site: Backend) -> None:
    id = new_id()
    await write(site, receipt(id, "before"))
    sets = [part for each in (*options_of(site), *ON) for part in ("--set", each)]
    process = spawn(sys.executable, "-m", "zpush", "trace", id, "--follow", *sets, stdout=-1, stderr=-1)
    try:
        assert process.stdout is not None
        assert "  before  " in await asyncio.to_thread(process.stdout.readline)
        await write(site, receipt(new_id(), "other"), receipt(id, "after"))
        assert "  after  " in await asyncio.to_thread(process.stdout.readline)
    finally:
        code = await asyncio.to_thread(end, process, signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert process.stderr is not None and process.stderr.read() == ""


async def test_following_ends_when_the_time_is_over(site: Backend, run_on: RunOn) -> None:
    code, out, err = await run_on(site, "trace", new_id(), "--follow", "--timeout", "0.5s", sets=ON)
    assert (code, out) == (3, "") and err.startswith("no receipt of ")


async def test_no_byte_of_a_receipt_steers_the_terminal(site: Backend, run_on: RunOn) -> None:
    nasty = receipt("m1", STEERING, node=STEERING, user=STEERING, outcome=STEERING)
    await site.write("receipts", [("key", b"m1"), ("payload", encode(nasty))])
    counts = receipt("m1", "", outcome="", counts={STEERING: 1})
    await site.write("receipts", [("key", b"m1"), ("payload", encode(counts))], [("key", b"m1"), ("payload", b"{")])
    for options in ((), ("--json",)):
        code, out, err = await run_on(site, "trace", "m1", *options, sets=ON)
        assert (code, err, len(out.splitlines())) == (0, "", 2)
        assert all(0x20 <= ord(c) < 0x7F or c == "\n" for c in out)


async def test_where_they_are_off_it_says_how_to_switch_on(backend: Backend, run_on: RunOn) -> None:
    code, out, err = await run_on(backend, "trace", "m1")
    assert (code, out) == (2, "")
    assert err.startswith("zpush: queue.receipts is off: set queue.receipts = true for zpush serve,")
    assert ("zpush topics create" in err) is (backend.name == "kafka")


async def test_where_the_topic_is_missing_it_says_what_makes_it(backend: Backend, run_on: RunOn) -> None:
    code, out, err = await run_on(backend, "trace", "m1", sets=ON)
    assert out == ""
    if backend.name == "kafka":
        assert code == 1 and "receipts is missing: `zpush topics create` makes it" in err
    else:
        assert code == 3, "a stream that nobody has written to is empty"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "required: ID"),
        (["a\nb"], 2, "control character"),
        (["m1", "--since", "yesterday"], 2, "is not a duration"),
        (["m1", "--set", "queue.receipts=true", "--set", "queue.url=unix:///nowhere"], 1, "zpush: /nowhere: "),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and complaint in captured.err and captured.err.count("\n") == 1
