"""`zpush dead list | replay`, on each back end."""

from __future__ import annotations

import base64
import json

import pytest

from tests.cli.conftest import RunOn
from tests.queue.backends import Backend, StreamsBackend, take_all
from tests.queue.test_dead_letters import own_fields, write_letter, write_letters
from tests.support import Valkey, eventually
from zpush.cli import dead
from zpush.cli.main import main

GOOD = {"key": b"c1", "payload": b"hello", "id": b"m1"}
BAD = {"key": b"c1", "payload": b"hello", "type": b"video"}
STEERING = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e\u2028"


async def test_letters_are_listed_a_line_each(backend: Backend, run_on: RunOn) -> None:
    await write_letter(backend, GOOD)
    await write_letter(backend, BAD)
    code, out, err = await run_on(backend, "dead", "list")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    source = f"{backend.layout.prefix}.normal"
    assert first.split("  ")[1:3] == ["2023-11-14 22:13:20.000", first.split("  ")[2]]
    assert first.split("  ")[2].startswith(source)
    assert first.endswith("of its time  key=c1 id=m1  5 bytes: hello")
    assert second.endswith("of its time  key=c1 id=  5 bytes: hello")


async def test_as_json_for_scripts(backend: Backend, run_on: RunOn) -> None:
    await write_letter(backend, {**GOOD, "payload": b"\xff" * 5000})
    await write_letter(backend, BAD)
    code, out, _ = await run_on(backend, "dead", "list", "--json")
    one, two = map(json.loads, out.splitlines())
    assert code == 0
    assert base64.b64decode(one["value"]) == b"\xff" * 1024 and one["value_bytes"] == 5000
    assert (base64.b64decode(one["key"]), base64.b64decode(one["id"])) == (b"c1", b"m1")
    assert (one["priority"], one["time_ms"], one["reason"]) == ("normal", 1_700_000_000_000, "of its time")
    assert "UTF-8" in one["problem"] and "video" in two["problem"]


async def test_no_byte_of_a_letter_steers_the_terminal(backend: Backend, run_on: RunOn) -> None:
    nasty = STEERING.encode() + b"\xff"
    await write_letter(backend, {"key": nasty, "payload": nasty, "id": nasty})
    await backend.write("dead", [*own_fields(backend, STEERING, source=STEERING, time=nasty), ("payload", nasty)])
    await backend.write("dead", [("reason", nasty), ("payload", b"x" * 1_000_000)])
    for options in ((), ("--json",)):
        code, out, err = await run_on(backend, "dead", "list", *options)
        assert code == 0
        assert len(out.splitlines()) == 3, "a line each"
        assert all(0x20 <= ord(c) < 0x7F or c in "\n…" for c in out + err)
        assert max(map(len, out.splitlines())) < 6000
    assert "\\x1b]0;owned\\x07" in (await run_on(backend, "dead", "list"))[1]


async def test_limit_and_priority(backend: Backend, run_on: RunOn) -> None:
    await write_letters(backend, [GOOD] * 5)
    high = [(n, v.replace(b".normal", b".high")) for n, v in own_fields(backend, "r")]
    await backend.write("dead", [*high, ("key", b"c2"), ("payload", b"x")])
    code, out, err = await run_on(backend, "dead", "list", "--limit", "2")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == "there are more: 6 in all, about (--limit)\n"
    assert (await run_on(backend, "dead", "list", "--limit", "6"))[2] == ""
    _, out, _ = await run_on(backend, "dead", "list", "--priority", "high")
    assert len(out.splitlines()) == 1 and "key=c2" in out
    assert await run_on(backend, "dead", "list", "--priority", "low") == (0, "", "there are none\n")


async def test_replaying_all_publishes_each_once(backend: Backend, run_on: RunOn) -> None:
    await write_letters(backend, [GOOD] * 3)
    assert await run_on(backend, "dead", "replay", "--all", "--dry-run") == (0, "would replay 3\n", "")
    assert len((await run_on(backend, "dead", "list"))[1].splitlines()) == 3
    assert await run_on(backend, "dead", "replay", "--all") == (0, "replayed 3\n", "")
    assert await run_on(backend, "dead", "replay", "--all") == (0, "replayed 0\n", "")
    assert await run_on(backend, "dead", "list") == (0, "", "there are none\n")
    records = await take_all([await backend.consumer()], 3)
    assert [record.message.id for record in records] == ["m1"] * 3
    await eventually(backend.empty)


async def test_single_letters_by_name(backend: Backend, run_on: RunOn) -> None:
    await write_letters(backend, [GOOD] * 3)
    names = [line.split()[0] for line in (await run_on(backend, "dead", "list"))[1].splitlines()]
    assert await run_on(backend, "dead", "replay", names[1], names[2]) == (0, "replayed 2\n", "")
    code, out, err = await run_on(backend, "dead", "replay", "--json", names[1], names[0])
    assert code == 1
    assert json.loads(out) == {"replayed": 1, "unreadable": 0, "refused": 0, "missing": 1}
    assert err == f"{names[1]}: there is no such letter, or it was replayed\n"
    code, out, err = await run_on(backend, "dead", "replay", "nonsense")
    assert (code, out) == (2, "") and err.startswith("zpush: a dead letter is named like ")


async def test_what_cannot_be_replayed_or_read_is_told(backend: Backend, run_on: RunOn) -> None:
    await write_letter(backend, BAD)
    await backend.write("dead", own_fields(backend, "r", source=STEERING) + [("payload", b"x")])
    await write_letter(backend, GOOD)
    for dry in (True, False):
        code, out, err = await run_on(backend, "dead", "replay", "--all", *(["--dry-run"] if dry else []))
        assert code == 1
        verb = "would replay" if dry else "replayed"
        assert out == f"{verb} 2; 1 still cannot be read and become dead letters again; 1 could not be replayed\n"
        one, two = err.splitlines()
        assert one.endswith(": still cannot be read: type must be text, binary or json, not 'video'")
        assert "not replayed: it comes from '\\x1b]0;owned" in two and two.endswith("which is none of this queue's")
    consumer = await backend.consumer()
    await take_all([consumer], 1)
    await eventually(lambda: len(backend.dead_letters) == 1, "the other is buried again")
    code, out, _ = await run_on(backend, "dead", "list")
    assert len(out.splitlines()) == 2


async def test_long_work_shows_how_far_it_is(backend: Backend, run_on: RunOn, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_letters(backend, [{**BAD, "payload": b"x" * 100}] * 600)
    monkeypatch.setattr(dead, "PROGRESS_S", 0.0)
    code, out, err = await run_on(backend, "dead", "replay", "--all", "--dry-run")
    assert (code, out) == (1, "would replay 600; 600 still cannot be read and become dead letters again\n")
    lines = err.splitlines()
    assert sum("still cannot be read" in line for line in lines) == dead.TOLD_REFUSALS, "not one for each"
    assert lines[-1] == "read 600 of about 600"


async def test_a_full_queue_stops_it_and_nothing_is_lost(valkey: Valkey, run_on: RunOn) -> None:
    streams = StreamsBackend(valkey)
    try:
        await write_letters(streams, [GOOD] * 5)
        bound = ("queue.max_messages=8",)  # two a stream
        code, out, err = await run_on(streams, "dead", "replay", "--all", sets=bound)
        assert (code, out) == (1, "replayed 2\n")
        assert err == "zpush: its stream is full (queue.max_messages): the others are where they were\n"
        assert await streams.redis.xlen("zpush.dead") == 3
        assert len(await take_all([await streams.consumer()], 2)) == 2
    finally:
        await streams.close()


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["replay"], 2, "give --all or names of letters"),
        (["replay", "--all", "0:1"], 2, "give --all or names of letters"),
        (["list", "--limit", "0"], 2, "not a whole number from 1 on"),
        (["list", "--priority", "urgent"], 2, "invalid choice"),
        ([], 2, "required: ACTION"),
        (["list", "--set", "queue.url=unix:///nowhere"], 1, "zpush: /nowhere: "),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and complaint in captured.err and captured.err.count("\n") == 1
