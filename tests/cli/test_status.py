"""What `zpush status` and `zpush reload` print of a master's answer; that it answers is tested with the master."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from zpush.cli import control as cli_control
from zpush.cli.main import main
from zpush.errors import Unavailable
from zpush.master import control

WORKER = {
    "slot": 0, "pid": 11, "state": "ready", "restarts": 0, "started": time.time() - 7300, "connections": 52_001,
    "opening": 3, "unsent_bytes": 3 << 20, "rss_bytes": 5 << 30, "heartbeat_age_s": 0.3,
    "registry_up": True, "queue_up": True, "dirty_leases": 0,
}  # fmt: skip
STATUS: dict[str, Any] = {
    "pid": 10, "version": "1.2.3", "state": "degraded", "started": time.time() - 200_000,
    "addresses": {"clients": "0.0.0.0:8080", "api": "127.0.0.1:8081", "peers": ["10.0.0.1:8100", "10.0.0.1:8101"]},
    "workers": [WORKER, {**WORKER, "slot": 1, "pid": None, "state": "waiting", "restarts": 9, "started": None,
                         "connections": 0, "rss_bytes": None, "heartbeat_age_s": None}],
    "processors": [{**WORKER, "unsent_bytes": None, "in_flight": 70, "heartbeat_age_s": 130.0, "queue_up": False}],
    "valkey": {"pid": 12, "state": "ready", "restarts": 0, "socket": "/x"},
    "reload": None,
    "totals": {"connections": 52_001, "restarts": 9, "published": 5, "taken": 4, "redelivered": 1,
               "outcomes": {"delivered": 3, "offline": 2, "dropped": 0}},
}  # fmt: skip
del STATUS["processors"][0]["opening"]


NODES: dict[str, Any] = {
    "nodes": [{"box": box, "connections": 52_001, "dirty_leases": 0} for box in ("one", "one", "two")],
    "registry": {"server": "10.0.0.9:6379", "role": "master", "replicas": 1, "reason": ""},
}


def asked(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], word: str) -> int:
    monkeypatch.setattr(control, "ask", lambda path, command, timeout_s=0.0: answer if command == word else {})
    return main([word])


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **changes: Any) -> list[str]:
    monkeypatch.setattr(cli_control, "get", lambda api, path, timeout_s: NODES)
    assert asked(monkeypatch, {**STATUS, **changes}, "status") == 0
    return capsys.readouterr().out.splitlines()


def test_status_shows_each_process_and_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(monkeypatch, capsys)
    assert lines[0] == "zpush 1.2.3, pid 10: degraded, started 2 d ago"
    assert lines[1] == "clients 0.0.0.0:8080   api 127.0.0.1:8081   peers 10.0.0.1:8100, 10.0.0.1:8101"
    assert lines[2] == "registry 10.0.0.9:6379   master with 1 replica   3 workers on 2 boxes   156003 connections"
    rows = {line[:11].strip(): line[11:].split() for line in lines}
    assert " ".join(rows["worker 0"]) == "11 ready 2 h 52001 3 3 MiB 5.0 GiB 0"
    assert rows["worker 1"][:2] == ["-", "waiting"] and rows["worker 1"][-1] == "9"
    assert " ".join(rows["processor 0"]) == "11 ready 2 h 70 5.0 GiB 0 no sign of life for 2 min, queue away"
    assert "queued 5   taken 4   redelivered 1" in lines
    assert lines[-1] == "outcomes    delivered 3, offline 2"


@pytest.mark.parametrize(
    ("last", "line"),
    [
        ({"error": "zpush.toml:3: no"}, "the reload 2 min ago was refused: zpush.toml:3: no"),
        ({"needs_restart": ["a.b", "c.d"], "problems": []}, "in force after a restart: a.b, c.d"),
        ({"needs_restart": [], "problems": ["port taken"]}, "at the reload 2 min ago: port taken"),
        ({"needs_restart": [], "problems": []}, ""),
    ],
)
def test_status_shows_what_is_left_to_do_of_a_reload(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: dict[str, Any], line: str
) -> None:
    assert printed(monkeypatch, capsys, reload={"at": time.time() - 121, **last})[3] == line


def test_status_shows_what_is_wrong_with_the_registry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {**NODES["registry"], "replicas": 0, "reason": "1 of 3 shards: 10.0.0.9:6379: LOADING"}
    nodes = [{**NODES["nodes"][0], "dirty_leases": 4000}]
    monkeypatch.setattr(cli_control, "get", lambda api, path, timeout_s: {"nodes": nodes, "registry": wrong})
    assert asked(monkeypatch, {**STATUS, "workers": [{**WORKER, "dirty_leases": 4000}]}, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "registry 10.0.0.9:6379   master with 0 replicas   1 worker on 1 box   52001 connections   "
        "4000 leases still to be written   1 of 3 shards: 10.0.0.9:6379: LOADING"
    )
    assert lines[5].endswith("4000 leases to be written")


@pytest.mark.parametrize("code", ["text", "json"])
def test_status_without_a_registry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    def refused(api: Any, path: str, timeout_s: float) -> None:
        assert (api, path) == (("http://127.0.0.1:8081", ""), "/v1/nodes")
        raise Unavailable("the API at http://127.0.0.1:8081: it is away")

    monkeypatch.setattr(cli_control, "get", refused)
    monkeypatch.setattr(control, "ask", lambda path, command, timeout_s=0.0: dict(STATUS))
    assert main(["status", *(["--json"] if code == "json" else [])]) == 0
    out = capsys.readouterr().out
    if code == "json":
        assert json.loads(out)["registry"] == {"error": "the API at http://127.0.0.1:8081: it is away"}
    else:
        assert out.splitlines()[2] == "registry not known: the API at http://127.0.0.1:8081: it is away"


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        ({"changed": [], "needs_restart": [], "problems": []}, 0, "reloaded\n", ""),
        (
            {"changed": ["a.b", "c.d", "e.f"], "needs_restart": ["c.d"], "problems": []},
            0,
            "reloaded\nchanged: a.b, e.f\nneeds a restart: c.d\n",
            "",
        ),
        (
            {"changed": ["server.workers"], "needs_restart": [], "problems": ["peers.port: taken"]},
            1,
            "reloaded\nchanged: server.workers\n",
            "zpush: peers.port: taken\n",
        ),
        (
            {"error": "zpush.toml:3: log.level is wrong"},
            2,
            "",
            "zpush: the running zpush keeps its settings: zpush.toml:3: log.level is wrong\n",
        ),
    ],
)
def test_reload_says_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: dict[str, Any],
    code: int,
    out: str,
    err: str,
) -> None:
    assert asked(monkeypatch, answer, "reload") == code
    assert tuple(capsys.readouterr()) == (out, err)
