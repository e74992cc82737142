"""auth.mode = "jwt": where tokens come from, what is remembered, and keys from a URL over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from tests.auth.service import Service, service
from tests.auth.tokens import CLAIMS, HEADER, KEY, NOW, OTHER, PrivateKey, ec_key, jwk, key_set, rsa_key, signed, token
from tests.protocol.heads import PEER, UPGRADE, head, upgrade
from tests.support import eventually, free_port
from zpush.auth import jwks
from zpush.auth.base import Identity
from zpush.auth.jwk import from_secret
from zpush.auth.jwt import JwtVerifier
from zpush.auth.jwt_authenticator import JwtAuthenticator
from zpush.errors import Unauthorized
from zpush.protocol.handshake import Refusal, parse

RS: dict[str, Any] = {"alg": "RS256"}


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Tokens that were really verified, and not just known."""
    calls: list[bytes] = []
    verify = JwtVerifier.verify

    def counted(self: JwtVerifier, data: bytes) -> Identity:
        calls.append(data)
        return verify(self, data)

    monkeypatch.setattr(JwtVerifier, "verify", counted)
    yield calls


def authenticator(*secrets: bytes, clock: Clock | None = None, capacity: int = 100, **options: Any) -> JwtAuthenticator:
    keys = [from_secret(secret) for secret in secrets]
    return JwtAuthenticator(JwtVerifier(now_s=clock or Clock(), leeway_s=30.0), keys, capacity=capacity, **options)


async def resolved(answer: Identity | Awaitable[Identity]) -> Identity:
    return answer if isinstance(answer, Identity) else await asyncio.wait_for(answer, 10.0)


def test_a_token_is_found_where_it_may_be() -> None:
    data = token().decode()
    places = [{"Authorization": f"Bearer {data}"}, {"Cookie": f"zp={data}"}]
    places.append({"Sec-WebSocket-Protocol": f"zpush.v1, zpush.token.{data}"})
    for place in places:
        request = parse(head("/ws", UPGRADE | place), PEER)
        assert authenticator(KEY, cookie="zp").authenticate(request) == Identity("d1", "", NOW + 60)
    query = parse(upgrade(f"/ws?token={data}"), PEER)
    assert authenticator(KEY, query_token=True).authenticate(query) == Identity("d1", "", NOW + 60)
    for request in (query, parse(upgrade("/ws?client=d1"), PEER)):
        with pytest.raises(Unauthorized, match="no token"):
            authenticator(KEY).authenticate(request)


# ---- what is remembered


def test_a_token_is_verified_once(verified: list[bytes]) -> None:
    it = authenticator(KEY)
    assert it.verify_token(token()) is it.verify_token(token())
    assert len(verified) == 1


def test_an_expired_token_is_not_known_any_more(clock: Clock, verified: list[bytes]) -> None:
    it = authenticator(KEY, clock=clock)
    it.verify_token(token())
    clock.now = NOW + 89
    assert it.verify_token(token()) == Identity("d1", "", NOW + 60)
    clock.now = NOW + 90
    with pytest.raises(Unauthorized, match="expired"):
        it.verify_token(token())
    assert len(verified) == 2


def test_refusals_are_not_remembered(verified: list[bytes]) -> None:
    it = authenticator(KEY)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            it.verify_token(token(key=OTHER))
    assert len(verified) == 3 and len(it._cache) == 0


def test_a_long_token_is_not_even_hashed(monkeypatch: pytest.MonkeyPatch, verified: list[bytes]) -> None:
    def never(data: bytes) -> bytes:
        raise AssertionError("hashed")

    monkeypatch.setattr("zpush.auth.jwt_authenticator.digest", never)
    with pytest.raises(Unauthorized, match="65536 bytes"):
        authenticator(KEY).verify_token(b"x" * 65_536)
    assert not verified


# ---- keys from a URL


@contextlib.asynccontextmanager
async def started(*secrets: bytes, **options: Any) -> AsyncIterator[JwtAuthenticator]:
    it = authenticator(*secrets, **options)
    await it.start()
    try:
        yield it
    finally:
        await it.stop()


@pytest.fixture
async def keys_service() -> AsyncIterator[Service]:
    async with service() as it:
        it.body = key_set(jwk(rsa_key("a"), kid="a"))
        yield it


def named(key_id: str, key: PrivateKey | None = None) -> bytes:
    return signed({**RS, "kid": key_id}, CLAIMS, key or rsa_key(key_id))


async def test_keys_are_there_at_the_start(keys_service: Service) -> None:
    keys_service.body = key_set(jwk(rsa_key("a"), kid="a"), jwk(ec_key("b"), kid="b"))
    async with started(KEY, url=keys_service.url) as it:
        assert it.verify_token(named("a")) == Identity("d1", "", NOW + 60)
        assert it.verify_token(signed({"alg": "ES256", "kid": "b"}, CLAIMS, ec_key("b"))).client_id == "d1"  # type: ignore[union-attr]
        assert it.verify_token(token()) == Identity("d1", "", NOW + 60)
    assert len(keys_service.requests) == 1


async def test_they_are_fetched_again(keys_service: Service) -> None:
    async with started(url=keys_service.url, refresh_s=0.02) as it:
        await eventually(lambda: len(keys_service.requests) >= 3, "three fetches")
        keys_service.body = key_set(jwk(rsa_key("b"), kid="b"))
        await eventually(lambda: "b" in {key.key_id for key in it._url_keys}, "the new key")
        assert it.verify_token(named("b")) == Identity("d1", "", NOW + 60)


async def test_a_key_change_empties_what_is_remembered(keys_service: Service) -> None:
    async with started(KEY, url=keys_service.url, refresh_s=0.02) as it:
        it.verify_token(named("a"))
        it.verify_token(token())
        fetches = len(keys_service.requests)
        await eventually(lambda: len(keys_service.requests) > fetches + 1, "the same keys again")
        assert len(it._cache) == 2, "the same keys are no change"
        keys_service.body = key_set(jwk(rsa_key("b"), kid="b"))
        await eventually(lambda: len(it._cache) == 0, "an empty cache")
        with pytest.raises(Unauthorized):
            await resolved(it.verify_token(named("a")))


async def test_an_unknown_key_is_fetched_once_for_all_who_wait(keys_service: Service) -> None:
    async with started(url=keys_service.url) as it:
        keys_service.body = key_set(jwk(rsa_key("b"), kid="b"))
        keys_service.hold.clear()
        waiting = [asyncio.ensure_future(resolved(it.verify_token(named("b")))) for _ in range(20)]
        waiting.append(asyncio.ensure_future(resolved(it.verify_token(named("nobody", rsa_key("b"))))))
        await eventually(lambda: len(keys_service.requests) == 2, "the fetch")
        assert not any(each.done() for each in waiting)
        keys_service.hold.set()
        *good, bad = await asyncio.gather(*waiting, return_exceptions=True)
        assert good == [Identity("d1", "", NOW + 60)] * 20
        assert isinstance(bad, Unauthorized)
        assert len(keys_service.requests) == 2
        with pytest.raises(Unauthorized):  # at once: there was a fetch within the minute
            it.verify_token(named("c"))
        assert len(keys_service.requests) == 2


async def test_an_unknown_key_is_asked_for_again_after_a_minute(
    keys_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "OUT_OF_TURN_S", 0.0)
    async with started(url=keys_service.url) as it:
        for fetches in (2, 3):
            with pytest.raises(Unauthorized):
                await resolved(it.verify_token(named("z")))
            assert len(keys_service.requests) == fetches


async def test_only_a_kid_that_is_unknown_causes_a_fetch(keys_service: Service) -> None:
    async with started(KEY, url=keys_service.url) as it:
        hostile = [
            named("a", rsa_key("evil")),
            signed(RS, CLAIMS, rsa_key("evil")),
            signed({"alg": "none", "kid": "z"}, CLAIMS, KEY),
            signed({**HEADER, "kid": "z"}, CLAIMS, OTHER),
            signed({"alg": "PS256", "kid": "z"}, CLAIMS, rsa_key("z")),
            signed({**RS, "kid": 5}, CLAIMS, rsa_key("z")),
            b"x" * 65_536,
        ]
        for data in hostile:
            with pytest.raises(Unauthorized):
                it.verify_token(data)
    assert len(keys_service.requests) == 1


def answers(service: Service, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(service, name, value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": 500}, "the answer is 500"),
        ({"status": 302, "extra": b"Location: http://127.0.0.1:1/\r\n"}, "the answer is 302"),
        ({"body": b"<html>"}, "not a set"),
        ({"body": b'{"keys":[]}'}, "it is empty"),
        ({"body": b" " * (jwks.MAX_BYTES + 1)}, "larger than"),
        ({"extra": b"Content-Encoding: gzip\r\n"}, "compressed"),
    ],
)
async def test_the_last_good_keys_stay_and_two_lines_say_so(
    keys_service: Service,
    changes: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zpush.auth")
    good = vars(keys_service).copy()
    async with started(url=keys_service.url, refresh_s=0.02) as it:
        answers(keys_service, **changes)
        fetches = len(keys_service.requests)
        await eventually(lambda: len(keys_service.requests) >= fetches + 3, "three that fail")
        assert it.verify_token(named("a")) == Identity("d1", "", NOW + 60)
        answers(keys_service, **{name: good[name] for name in changes})
        await eventually(lambda: "token keys are fetched again" in caplog.messages, "the line that it is back")
    assert caplog.messages.count("token keys cannot be fetched") == 1
    assert caplog.messages.count("token keys are fetched again") == 1
    (line,) = [r for r in caplog.records if r.getMessage() == "token keys cannot be fetched"]
    assert reason in line.__dict__["fields"]["reason"]


async def test_a_fetch_is_bounded_in_time(keys_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_S", 0.05)
    keys_service.hold.clear()
    async with started(url=keys_service.url) as it:  # start itself would hang
        with pytest.raises(Refusal):
            await resolved(it.verify_token(named("a")))


async def test_without_any_key_yet_a_token_is_not_called_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}/keys"
    async with started(KEY, url=url) as it:
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                await resolved(it.verify_token(named("a")))
            assert refused.value.status == 503 and dict(refused.value.headers)["Retry-After"].isdigit()
        assert it.verify_token(token()) == Identity("d1", "", NOW + 60)
        with pytest.raises(Unauthorized):
            it.verify_token(token(key=OTHER))


async def test_keys_outlive_a_reload_while_the_url_is_away(keys_service: Service) -> None:
    async with started(url=keys_service.url) as old:
        keys_service.status = 500
        new = authenticator(url=keys_service.url)
        new.take_over(old)
        await new.start()
        assert new.verify_token(named("a")) == Identity("d1", "", NOW + 60)
        await new.stop()
        elsewhere = authenticator(url="http://127.0.0.1:1/")
        elsewhere.take_over(old)
        assert not elsewhere._url_keys


async def test_stop_ends_a_fetch(keys_service: Service) -> None:
    async with started(url=keys_service.url) as it:
        keys_service.hold.clear()
        waiting = asyncio.ensure_future(resolved(it.verify_token(named("z"))))
        await eventually(lambda: len(keys_service.requests) == 2, "the fetch")
    with pytest.raises(Unauthorized):
        await waiting
    with pytest.raises(Unauthorized):
        it.verify_token(named("z"))
