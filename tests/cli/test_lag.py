"""`zpush lag`, as a user types it: on both back ends, with no server and no consumer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.kafka.fixtures import Kafka
from tests.support import Valkey, run_zpush
from zpush.cli.main import main
from zpush.config import load
from zpush.protocol.message import Message, Priority
from zpush.queue.open import open_producer


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZPUSH_CONFIG", raising=False)


@pytest.fixture(params=["streams", "kafka"])
def settings(request: pytest.FixtureRequest) -> list[str]:
    """Of a queue that is there."""
    if request.param == "streams":
        valkey: Valkey = request.getfixturevalue("valkey")
        return [f"queue.url={valkey.url}"]
    kafka: Kafka = request.getfixturevalue("kafka")
    sets = [f"queue.url={kafka.url}", f"queue.prefix={kafka.prefix}"]
    assert main(["topics", "create", *options(sets)]) == 0
    return sets


def options(sets: list[str]) -> list[str]:
    return [part for each in sets for part in ("--set", each)]


def publish(sets: list[str]) -> None:
    queue = load(None, {}, sets).queue

    async def on_a_loop() -> None:
        producer = open_producer(queue, queue.url)
        await producer.start()
        sent = [Message(f"m{n}", f"c{n}", b"x", priority=Priority.LOW if n < 7 else Priority.HIGH) for n in range(9)]
        assert await producer.publish(sent) == [None] * 9
        await producer.stop()

    asyncio.run(on_a_loop())


def test_it_shows_what_waits_and_how_long(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    publish(settings)
    capsys.readouterr()
    assert main(["lag", *options(settings)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["priority", "messages", "oldest"]
    assert [row.split()[:2] for row in rows] == [["high", "2"], ["normal", "0"], ["low", "7"]]
    assert rows[0].split()[3] == "s" and rows[1].split()[2] == "-"
    assert main(["lag", "--json", *options(settings)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {label: each["messages"] for label, each in found.items()} == {"high": 2, "normal": 0, "low": 7}
    assert found["normal"]["age_s"] == 0.0 < found["low"]["age_s"] < 300


@pytest.mark.parametrize("url", ["kafka://127.0.0.1:1", "unix:///nowhere/valkey.sock"])
def test_a_queue_that_is_away_is_one_line(url: str) -> None:
    done = run_zpush("lag", "--set", f"queue.url={url}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zpush: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["lag"], ["dead", "list"], ["trace", "x", "--set", "queue.receipts=true"]])
def test_without_a_server_its_own_queue_is_named_once_with_a_hint(command: list[str], tmp_path: Path) -> None:
    done = run_zpush(*command, "--set", f"server.data_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"zpush: {tmp_path}/valkey.sock: ") and done.stderr.count(str(tmp_path)) == 1
    assert "does `zpush serve` run on this server.data_dir?" in done.stderr
