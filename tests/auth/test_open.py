"""auth.mode chooses the authenticator."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.auth.service import service
from tests.auth.tokens import ec_key, jwk, key_set, pem, rsa_key, signed
from tests.protocol.heads import PEER, upgrade
from zpush.auth import cookie
from zpush.auth.base import Identity
from zpush.auth.jwt import sign
from zpush.auth.open import open_authenticator
from zpush.config import Settings
from zpush.errors import ConfigError, Unauthorized
from zpush.protocol.handshake import Request, parse

KEY = b"a key of thirty-two bytes, or more"


def settings(**auth: Any) -> Settings:
    return replace(Settings(), auth=replace(Settings().auth, **auth))


def test_dev() -> None:
    request = parse(upgrade("/ws?client=a", Host="localhost"), PEER)
    assert open_authenticator(settings(mode="dev")).authenticate(request) == Identity("a")


def test_jwt_with_all_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_bytes(KEY)
    opened = open_authenticator(
        settings(mode="jwt", keys_file=str(path), audience="a", issuer="i", cookie="c", query_token=True)
    )
    token = sign(KEY, "d1", ttl_s=60, audience="a", issuer="i")
    for request in (upgrade(f"/ws?token={token}"), upgrade(Cookie=f"c={token}")):
        identity = opened.authenticate(parse(request, PEER))
        assert isinstance(identity, Identity) and identity.client_id == "d1"


def test_jwt_with_keys_of_every_kind(tmp_path: Path) -> None:
    keys, jwks = tmp_path / "keys", tmp_path / "jwks.json"
    keys.touch(mode=0o600)
    keys.write_bytes(KEY + b"\n" + pem(rsa_key()))
    jwks.write_bytes(key_set(jwk(ec_key(), kid="e"), {"kty": "oct", "k": "left out"}))
    claims = {"sub": "d1", "exp": 2**33}
    tokens = [signed({"alg": "HS256"}, claims, KEY), signed({"alg": "RS256"}, claims, rsa_key())]
    tokens.append(signed({"alg": "ES256", "kid": "e"}, claims, ec_key()))
    files = {"keys_file": str(keys), "jwks_file": str(jwks)}
    opened = open_authenticator(settings(mode="jwt", **files))
    for token in tokens:
        assert opened.verify_token(token) == Identity("d1", "", 2.0**33)
    narrow = open_authenticator(settings(mode="jwt", jwks_file=str(jwks), algorithms=("ES256",)))
    assert narrow.verify_token(tokens[2]) == Identity("d1", "", 2.0**33)
    with pytest.raises(ConfigError, match="auth.algorithms allows ES256, and there are keys for HS256, RS256"):
        open_authenticator(settings(mode="jwt", algorithms=("ES256",), **files))


async def test_jwt_with_a_url() -> None:
    async with service() as it:
        it.body = key_set(jwk(ec_key(), kid="e"))
        opened = open_authenticator(settings(mode="jwt", jwks_url=it.url))
        await opened.start()
        token = signed({"alg": "ES256", "kid": "e"}, {"sub": "d1", "exp": 2**33}, ec_key())
        assert opened.verify_token(token) == Identity("d1", "", 2.0**33)
        await opened.stop()


def test_cookie(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_bytes(KEY)
    opened = open_authenticator(settings(mode="cookie", keys_file=str(path), cookie="c"))
    identity = opened.authenticate(parse(upgrade(Cookie=f"c={cookie.sign(KEY, 'd1', ttl_s=60)}"), PEER))
    assert isinstance(identity, Identity) and identity.client_id == "d1"


@pytest.mark.parametrize(("hook_down", "client"), [("refuse", None), ("allow_cached", "d1")])
async def test_hook_with_all_its_settings(hook_down: str, client: str | None) -> None:
    async with service() as it:
        it.says(client="d1")
        it.hold.set()
        auth = {"hook_url": it.url, "hook_headers": ("X-Device",), "hook_timeout_s": 0.5, "hook_cache_s": 0.0}
        opened = open_authenticator(settings(mode="hook", hook_down=hook_down, **auth))
        await opened.start()
        request = parse(upgrade(X_Device="x"), PEER)
        answer = opened.authenticate(request)
        assert not isinstance(answer, Identity) and (await answer).client_id == "d1"
        assert it.questions[0]["headers"] == {"x-device": "x"}
        it.hold.clear()
        answer = opened.authenticate(request)
        assert not isinstance(answer, Identity)
        (result,) = await asyncio.gather(answer, return_exceptions=True)
        assert getattr(result, "client_id", None) == client
        await opened.stop()


def plugin(request: Request) -> Identity:
    return Identity("of a plug-in")


async def test_python() -> None:
    sys.modules["zp_of_this_test"] = sys.modules[__name__]
    opened = open_authenticator(settings(mode="python:zp_of_this_test:plugin"))
    await opened.start()
    assert opened.authenticate(parse(upgrade(), PEER)) == Identity("of a plug-in")
    await opened.stop()
    del sys.modules["zp_of_this_test"]


async def test_a_mode_that_holds_nothing_has_a_life_too() -> None:
    opened = open_authenticator(settings(mode="dev"))
    opened.take_over(opened)
    await opened.start()
    with pytest.raises(Unauthorized):
        opened.verify_token(b"x")
    await opened.stop()


@pytest.mark.parametrize(
    "auth",
    [
        {"mode": ""},
        {"mode": "magic"},
        {"mode": "jwt", "keys_file": "/nonexistent/keys"},
        {"mode": "jwt", "jwks_file": "/nonexistent/jwks.json"},
        {"mode": "jwt", "jwks_file": "/dev/null"},
        {"mode": "jwt", "jwks_file": "/proc/self/status"},
        {"mode": "cookie", "keys_file": "/nonexistent/keys"},
        {"mode": "python:nowhere:f"},
    ],
)
def test_what_cannot_be_opened(auth: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        open_authenticator(settings(**auth))


def test_dev_mode_loads_no_cryptography() -> None:
    code = (
        "import sys; from dataclasses import replace; from zpush.auth.open import open_authenticator;"
        "from zpush.config import Settings; s = Settings();"
        "open_authenticator(replace(s, auth=replace(s.auth, mode='dev')));"
        "sys.exit(any(n in sys.modules for n in ('joserfc', 'cryptography', 'httpx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
