"""`zpush topics`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kafka.fixtures import Kafka
from zpush.cli.main import main


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZPUSH_CONFIG", raising=False)


def options(kafka: Kafka, *more: str) -> list[str]:
    sets = [f"queue.url={kafka.url}", f"queue.prefix={kafka.prefix}", "queue.kafka.replication=1", *more]
    return [part for each in sets for part in ("--set", each)]


def test_check_names_what_makes_them_and_create_makes_them(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "check", *options(kafka)]) == 1
    captured = capsys.readouterr()
    assert [line.split()[1] for line in captured.out.splitlines()] == ["missing"] * 4
    assert captured.err.startswith(f"zpush: missing: {kafka.prefix}.high, ") and captured.err.count("\n") == 1
    assert "`zpush topics create` with the same options makes them" in captured.err

    assert main(["topics", "create", *options(kafka)]) == 0
    captured = capsys.readouterr()
    lines = [line.split(maxsplit=2) for line in captured.out.splitlines()]
    assert lines[0] == [f"{kafka.prefix}.high", "created", "8 partitions; replication 1; kept for 1d"]
    assert lines[3] == [f"{kafka.prefix}.dead", "created", "1 partition; replication 1; kept for 7d"]
    assert captured.err == ""

    for action in ("create", "check"):
        assert main(["topics", action, *options(kafka)]) == 0
        captured = capsys.readouterr()
        assert [line.split()[1] for line in captured.out.splitlines()] == ["ok"] * 4
        assert captured.err == ""


def test_what_differs_is_told_and_left(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    main(["topics", "create", *options(kafka)])
    capsys.readouterr()
    other = options(kafka, "queue.partitions=4")
    assert main(["topics", "create", *other]) == 0
    assert "differs  partitions is 8, not 4" in capsys.readouterr().out
    assert main(["topics", "check", *other]) == 1
    captured = capsys.readouterr()
    assert f"{kafka.prefix}.dead    ok" in captured.out
    assert f"not as configured: {kafka.prefix}.high, {kafka.prefix}.normal, {kafka.prefix}.low; " in captured.err


@pytest.mark.parametrize("what", ["receipts", "presence"])
def test_what_is_told_is_among_them_where_it_is_on(kafka: Kafka, capsys: pytest.CaptureFixture[str], what: str) -> None:
    assert main(["topics", "create", *options(kafka)]) == 0
    on = options(kafka, f"queue.{what}=true")
    capsys.readouterr()
    assert main(["topics", "check", *on]) == 1
    assert f"missing: {kafka.prefix}.{what}; " in capsys.readouterr().err
    assert main(["topics", "create", *on]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["ok"] * 4 + ["created"]
    assert main(["topics", "check", *on]) == 0


def test_for_scripts(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "check", "--json", *options(kafka)]) == 1
    assert [t["state"] for t in json.loads(capsys.readouterr().out)["topics"]] == ["missing"] * 4
    assert main(["topics", "create", "--json", *options(kafka)]) == 0
    assert [t["state"] for t in json.loads(capsys.readouterr().out)["topics"]] == ["created"] * 4
    assert main(["topics", "check", "--json", *options(kafka, "queue.partitions=4")]) == 1
    high = json.loads(capsys.readouterr().out)["topics"][0]
    assert high == {
        "topic": f"{kafka.prefix}.high",
        "state": "differs",
        "partitions": 4,
        "replication": 1,
        "config": high["config"],
        "differences": [{"what": "partitions", "found": "8", "wanted": "4"}],
    }


def test_streams_need_none(capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("create", "check"):
        assert main(["topics", action]) == 0
        assert "there is nothing to make" in capsys.readouterr().out
        assert main(["topics", action, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"topics": []}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("queue.kafka.lingr.ms=5", 'zpush: [queue.kafka]: No such configuration property: "lingr.ms"\n'),
        ("queue.url=kafka://a:b", "zpush: the Kafka URL names a broker that is not host:port: 'a:b'\n"),
    ],
)
def test_wrong_settings_are_found_by_every_command(
    override: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["topics", "check"], ["topics", "create"], ["config", "check"]):
        assert main([*command, "--set", "queue.url=kafka://127.0.0.1:1", "--set", override]) == 2
        assert capsys.readouterr().err == says
