"""auth.mode = "hook": a real service on a socket is asked, and may be slow, wrong or away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.auth.service import Service, service
from tests.protocol.heads import PEER, upgrade
from tests.support import eventually, free_port
from zpush.auth import hook
from zpush.auth.base import Identity
from zpush.auth.hook import TRIP, HookAuthenticator
from zpush.errors import Unauthorized
from zpush.protocol.handshake import Refusal, Request, parse

NOW = 1_800_000_000.0


@pytest.fixture
async def it() -> AsyncIterator[Service]:
    async with service() as running:
        running.says(client="d1")
        yield running


@contextlib.asynccontextmanager
async def asking(url: str, **options: Any) -> AsyncIterator[HookAuthenticator]:
    authenticator = HookAuthenticator(url, **{"now_s": lambda: NOW, **options})
    await authenticator.start()
    try:
        yield authenticator
    finally:
        await authenticator.stop()


def request(target: str = "/ws", **fields: str) -> Request:
    return parse(upgrade(target, **fields), PEER)


async def ask(authenticator: HookAuthenticator, asked: Request | None = None) -> Identity:
    answer = authenticator.authenticate(asked or request())
    return answer if isinstance(answer, Identity) else await asyncio.wait_for(answer, 10.0)


async def status_of(authenticator: HookAuthenticator, asked: Request | None = None) -> int:
    with pytest.raises((Unauthorized, Refusal)) as caught:
        await ask(authenticator, asked)
    if not isinstance(caught.value, Refusal):
        return 401
    if caught.value.status == 503:
        assert dict(caught.value.headers)["Retry-After"].isdigit()
    return caught.value.status


async def test_what_the_service_is_told(it: Service) -> None:
    async with asking(it.url, headers=["Cookie", "X-Device"], cookie="zp", query_token=True) as authenticator:
        asked = request(
            "/ws?room=5&x=%C3%A9",
            Cookie="a=b",
            X_Device="é",
            X_Secret="s",
            Authorization="Bearer t.o.k",
            Last_Event_ID="m7",
        )
        assert await ask(authenticator, asked) == Identity("d1")
        answer = authenticator.verify_token(b"t.o.k")
        assert not isinstance(answer, Identity) and await answer == Identity("d1")
    by_request, by_message = it.questions
    assert by_request == {
        "by": "request",
        "token": "t.o.k",
        "path": "/ws",
        "query": "room=5&x=%C3%A9",
        "headers": {"cookie": "a=b", "x-device": "é"},
        "peer": "127.0.0.1",
        "last_event_id": "m7",
    }
    assert (by_message["by"], by_message["token"], by_message["path"]) == ("message", "t.o.k", "")
    assert it.requests[0].method == "POST" and it.requests[0].headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    ("answer", "identity"),
    [
        ({"client": "d1"}, Identity("d1")),
        ({"client": "😀", "user": "u1", "expires": NOW + 60}, Identity("😀", "u1", NOW + 60)),
        ({"client": "d1", "user": None, "expires": None, "more": {}}, Identity("d1")),
        ({"client": "d1", "user": ""}, Identity("d1")),
    ],
)
async def test_who_it_is(it: Service, answer: dict[str, Any], identity: Identity) -> None:
    it.says(**answer)
    async with asking(it.url) as authenticator:
        assert await ask(authenticator) == identity


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b"", 401),
        (403, b"<html>", 403),
        (200, json.dumps({"client": "d1", "expires": NOW}).encode(), 401),
        (500, b"", 503),
        (404, b"", 503),
        (302, b"", 503),
        (204, b"", 503),
        (200, b"", 503),
        (200, b"<html>", 503),
        (200, b"[]", 503),
        (200, b"{}", 503),
        (200, b'{"client":5}', 503),
        (200, b'{"client":""}', 503),
        (200, b'{"client":"a\\n"}', 503),
        (200, b'{"client":"\xff"}', 503),
        (200, b'{"client":"a","user":[]}', 503),
        (200, b'{"client":"a","expires":"soon"}', 503),
        (200, b'{"client":"a","expires":1e999}', 503),
        (200, b'{"client":"a","x":' + b"[" * 5000, 503),
        (200, b'{"client":"a"}' + b" " * hook.MAX_ANSWER_BYTES, 503),
    ],
)
async def test_every_other_answer_is_a_refusal(it: Service, status: int, body: bytes, expected: int) -> None:
    it.status, it.body = status, body
    async with asking(it.url) as authenticator:
        assert await status_of(authenticator) == expected


async def test_a_service_that_is_not_there() -> None:
    async with asking(f"http://127.0.0.1:{free_port()}/") as authenticator:
        assert await status_of(authenticator) == 503


async def test_an_answer_has_its_time(it: Service) -> None:
    it.hold.clear()
    async with asking(it.url, timeout_s=0.05) as authenticator:
        assert await status_of(authenticator) == 503


async def test_a_token_is_bounded(it: Service) -> None:
    async with asking(it.url) as authenticator:
        with pytest.raises(Unauthorized, match="65536 bytes"):
            authenticator.verify_token(b"x" * 65_536)
    assert not it.requests


# ---- who is asked again, and who is not


async def test_a_good_answer_holds_for_the_same_question(it: Service) -> None:
    async with asking(it.url, headers=["x-device"]) as authenticator:
        for device in ("a", "a", "b"):
            await ask(authenticator, request(X_Device=device))
        other_port = parse(upgrade(X_Device="a"), PEER + "1")
        await ask(authenticator, other_port)
    assert [question["headers"]["x-device"] for question in it.questions] == ["a", "b"]


async def test_no_cache_asks_always_and_an_expired_answer_is_none(it: Service) -> None:
    async with asking(it.url, cache_s=0.0) as authenticator:
        await ask(authenticator)
        await ask(authenticator)
    assert len(it.requests) == 2
    now = NOW
    it.says(client="d1", expires=NOW + 5)
    async with asking(it.url, now_s=lambda: now) as authenticator:
        await ask(authenticator)
        now = NOW + 5
        assert await status_of(authenticator) == 401
    assert len(it.requests) == 4


async def test_refusals_are_not_remembered(it: Service) -> None:
    it.status = 401
    async with asking(it.url) as authenticator:
        assert await status_of(authenticator) == 401
        it.says(client="d1")
        assert await ask(authenticator) == Identity("d1")


async def test_who_names_a_last_event_is_always_asked_for(it: Service) -> None:
    async with asking(it.url) as authenticator:
        for event_id in ("m1", "m1", "m2"):
            await ask(authenticator, request(Last_Event_ID=event_id))
        assert [question["last_event_id"] for question in it.questions] == ["m1", "m1", "m2"]
        await ask(authenticator)  # known by now
    assert len(it.requests) == 3


async def test_the_same_question_joins_the_call_and_others_are_bounded(it: Service) -> None:
    it.hold.clear()
    async with asking(it.url, concurrency=2) as authenticator:
        first = [asyncio.ensure_future(ask(authenticator, request("/ws?a"))) for _ in range(10)]
        second = asyncio.ensure_future(ask(authenticator, request("/ws?b")))
        await eventually(lambda: len(it.requests) == 2, "two calls")
        assert await status_of(authenticator, request("/ws?c")) == 503
        first[0].cancel()  # it does not take the call with it
        it.hold.set()
        assert await asyncio.gather(*first[1:], second) == [Identity("d1")] * 10
        assert await ask(authenticator, request("/ws?c")) == Identity("d1")
    assert len(it.requests) == 3


# ---- down


async def trip(authenticator: HookAuthenticator) -> None:
    for n in range(TRIP):
        assert await status_of(authenticator, request(f"/ws?n={n}")) == 503


async def test_down_it_is_not_asked_but_now_and_then(
    it: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zpush.auth")
    monkeypatch.setattr(hook, "PROBE_S", 3600.0)
    it.status = 500
    async with asking(it.url) as authenticator:
        await trip(authenticator)
        it.says(client="d1")
        assert await status_of(authenticator) == 503, "nobody waits for a service that is down"
        assert len(it.requests) == TRIP
        authenticator._probe_s = 0.0  # the second is over
        assert await ask(authenticator) == Identity("d1")
        assert await ask(authenticator, request("/ws?b")) == Identity("d1")
    assert len(it.requests) == TRIP + 2
    assert caplog.messages == ["the hook failed", "the hook is down", "the hook is back"]


async def test_one_bad_question_does_not_bring_it_down(it: Service) -> None:
    async with asking(it.url, cache_s=0.0) as authenticator:
        for _ in range(TRIP + 1):
            it.status = 500
            assert await status_of(authenticator, request("/ws?bad")) == 503
            it.says(client="d1")
            assert await ask(authenticator) == Identity("d1")


async def test_refuse_when_down(it: Service) -> None:
    async with asking(it.url, cache_s=0.0) as authenticator:
        await ask(authenticator)
        it.status = 500
        assert await status_of(authenticator) == 503


@pytest.mark.parametrize("how", ["fails", "is down", "is busy"])
async def test_allow_cached_when_down(it: Service, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "PROBE_S", 3600.0)
    async with asking(it.url, cache_s=0.0, keep_s=3600.0, concurrency=1) as authenticator:
        await ask(authenticator)
        await ask(authenticator, request(Last_Event_ID="m1"))
        it.status = 500
        if how == "is down":
            await trip(authenticator)
        if how == "is busy":
            it.hold.clear()
            busy = asyncio.ensure_future(status_of(authenticator, request("/ws?slow")))
            await eventually(lambda: "slow" in str(it.questions), "a slow call")
        assert await ask(authenticator) == Identity("d1")
        assert await ask(authenticator, request(Last_Event_ID="m9")) == Identity("d1")
        assert await status_of(authenticator, request("/ws?stranger")) == 503
        if how == "is busy":
            it.hold.set()
            assert await busy == 503


async def test_a_refusal_ends_what_was_kept(it: Service) -> None:
    async with asking(it.url, cache_s=0.0, keep_s=3600.0) as authenticator:
        await ask(authenticator)
        it.status = 403
        assert await status_of(authenticator) == 403
        it.status = 500
        assert await status_of(authenticator) == 503


async def test_what_is_kept_ends(it: Service) -> None:
    now = NOW
    it.says(client="d1", expires=NOW + 60)
    async with asking(it.url, cache_s=0.0, keep_s=3600.0, now_s=lambda: now) as authenticator:
        await ask(authenticator)
        it.status = 500
        assert await ask(authenticator) == Identity("d1", "", NOW + 60)
        now = NOW + 60
        assert await status_of(authenticator) == 503
    it.says(client="d1")
    async with asking(it.url, cache_s=0.0, keep_s=0.001) as authenticator:
        await ask(authenticator)
        it.status = 500
        authenticator._answers._answers = type(authenticator._answers._answers)(
            (name, (identity, since_s - 1.0)) for name, (identity, since_s) in authenticator._answers._answers.items()
        )
        assert await status_of(authenticator) == 503


async def test_answers_outlive_a_reload_while_it_is_down(it: Service) -> None:
    async with asking(it.url, keep_s=3600.0) as old:
        await ask(old)
        it.status = 500
        async with asking(it.url, cache_s=0.0, keep_s=3600.0) as new:
            assert await status_of(new) == 503
            new.take_over(old)
            assert await ask(new) == Identity("d1")
        async with asking(it.url + "/v2", keep_s=3600.0) as elsewhere:
            elsewhere.take_over(old)
            assert await status_of(elsewhere) == 503


async def test_stop_lets_what_is_under_way_end(it: Service) -> None:
    it.hold.clear()
    authenticator = HookAuthenticator(it.url)
    await authenticator.start()
    waiting = asyncio.ensure_future(ask(authenticator))
    await eventually(lambda: bool(it.requests), "the call")
    stopping = asyncio.ensure_future(authenticator.stop())
    it.hold.set()
    await asyncio.wait_for(stopping, 10.0)
    assert await waiting == Identity("d1")
    assert await status_of(authenticator, request("/ws?late")) == 503
