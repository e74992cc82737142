"""auth.mode = "python:…": a function of the user's own; whatever it does, the worker goes on."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.heads import PEER, upgrade
from zpush.auth.base import Identity
from zpush.auth.plugin import Function, PluginAuthenticator, load
from zpush.errors import ConfigError, Unauthorized, Unavailable
from zpush.protocol.handshake import Refusal, Request, parse

EXAMPLE = """
from zpush.auth.base import Identity

def by_header(request):
    name = request.header(b"x-device").decode()
    return Identity(name) if name else None

async def later(request):
    return by_header(request)

number = 5
"""
REQUEST = parse(upgrade(X_Device="d1"), PEER)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "zp_example").mkdir()
    (tmp_path / "zp_example" / "auth.py").write_text(EXAMPLE)
    (tmp_path / "zp_broken.py").write_text("raise RuntimeError('no database')")
    monkeypatch.syspath_prepend(tmp_path)
    yield "python:zp_example.auth"
    for name in [name for name in sys.modules if name.startswith("zp_")]:
        del sys.modules[name]


def test_a_function(module: str) -> None:
    it = PluginAuthenticator(load(f"{module}:by_header"), 1.0)
    assert it.authenticate(REQUEST) == Identity("d1")
    with pytest.raises(Unauthorized):
        it.authenticate(parse(upgrade(), PEER))


async def test_a_coroutine_function(module: str) -> None:
    it = PluginAuthenticator(load(f"{module}:later"), 1.0)
    answer = it.authenticate(REQUEST)
    assert not isinstance(answer, Identity) and await answer == Identity("d1")
    answer = it.authenticate(parse(upgrade(), PEER))
    with pytest.raises(Unauthorized):
        await answer  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("python:zp_nowhere:f", "cannot import zp_nowhere: ModuleNotFoundError"),
        ("python:zp_broken:f", "cannot import zp_broken: RuntimeError: no database"),
        ("python:zp_example.auth:f", "no function f"),
        ("python:zp_example.auth:number", "no function number"),
    ],
)
def test_what_cannot_be_loaded(module: str, mode: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(mode)


def function(result: Any) -> Function:
    def it(request: Request) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return it


async def outcome(result: Any, later: bool) -> Exception:
    async def coroutine(request: Request) -> Any:
        return function(result)(request)

    it = PluginAuthenticator(coroutine if later else function(result), 1.0)
    with pytest.raises((Unauthorized, Refusal)) as caught:
        await it.authenticate(REQUEST)  # type: ignore[misc]
    return caught.value


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("result", "status"),
    [
        (None, 401),
        (Unauthorized("no"), 401),
        (Refusal(403, "forbidden", "no"), 403),
        (Unavailable("database"), 503),
        (TimeoutError(), 503),
        (RuntimeError("bug"), 500),
        (KeyError("bug"), 500),
        ("d1", 500),
        (True, 500),
        (Identity(""), 500),
        (Identity("a\n"), 500),
        (Identity("x" * 256), 500),
        (Identity("a", "\0"), 500),
        (Identity(5), 500),  # type: ignore[arg-type]
        (Identity("a", "u", "soon"), 500),  # type: ignore[arg-type]
        (Identity("a", "u", float("nan")), 500),
    ],
)
async def test_every_outcome_is_an_answer(result: Any, status: int, later: bool) -> None:
    error = await outcome(result, later)
    assert (error.status if isinstance(error, Refusal) else 401) == status
    if status == 503:
        assert dict(error.headers)["Retry-After"].isdigit()  # type: ignore[attr-defined]


async def test_it_has_its_time() -> None:
    async def never(request: Request) -> Identity:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Refusal) as refused:
        await PluginAuthenticator(never, 0.01).authenticate(REQUEST)  # type: ignore[misc]
    assert refused.value.status == 503


def test_a_bug_is_logged_with_its_traceback_and_not_for_every_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "zpush.auth")
    it = PluginAuthenticator(function(RuntimeError("bug")), 1.0)
    for _ in range(100):
        with pytest.raises(Refusal):
            it.authenticate(REQUEST)
    (line,) = caplog.records
    assert line.exc_info is not None and "bug" in caplog.text


def test_it_takes_no_tokens_by_message() -> None:
    with pytest.raises(Unauthorized):
        PluginAuthenticator(function(Identity("a")), 1.0).verify_token(b"x")
