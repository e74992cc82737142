"""`zpush token`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from zpush.auth import cookie
from zpush.auth.base import Identity
from zpush.auth.jwk import from_secret
from zpush.auth.jwt import JwtVerifier
from zpush.cli.main import main

KEY = "a key of thirty-two bytes, or more"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"{KEY}\nan older key, which only verifies now\n")
    config = tmp_path / "zpush.toml"
    config.write_text(f'[auth]\nmode = "jwt"\nkeys_file = "{keys}"\naudience = "push"\n')
    return ["-c", str(config)]


def verify(token: str) -> Identity:
    return JwtVerifier([from_secret(KEY.encode())], audience="push").verify(token.encode())


def test_a_token_signed_with_the_first_key(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = int(time.time())
    assert main(["token", "d1", "--user", "u1", "--ttl", "5m", *options]) == 0
    out, err = capsys.readouterr()
    identity = verify(out.strip())
    assert (identity.client_id, identity.user_id, err) == ("d1", "u1", "")
    assert identity.expires_s is not None and before + 300 <= identity.expires_s <= time.time() + 300


def test_json(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "😀", "--json", *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert verify(result["token"]) == Identity("😀", "", result["expires"])
    assert (result["client"], result["user"]) == ("😀", "")


@pytest.mark.parametrize(
    "arguments",
    [[], ["d1", "--ttl", "0"], ["d1", "--ttl", "-1h"], ["d1", "--ttl", "2y"], ["d1", "--ttl", "400d"], ["a\nb"]],
)
def test_wrong_usage(options: list[str], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", *arguments, *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1


def test_in_dev_mode_no_token_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "a/b", "--set", "auth.mode=dev"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "need no token" in err and "/ws?client=a%2Fb" in err


def test_a_cookie_value(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "d1", "--user", "u1", "--ttl", "5m", *options, "--set", "auth.mode=cookie"]) == 0
    value = capsys.readouterr().out.strip().encode()
    identity = cookie.CookieAuthenticator([KEY.encode()]).verify_token(value)
    assert (identity.client_id, identity.user_id) == ("d1", "u1")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["auth.mode=hook", "auth.hook_url=http://h/"], "who decides there"),
        (["auth.mode=python:a:b"], "who decides there"),
        (["auth.mode=jwt", "auth.keys_file=", "auth.jwks_url=https://h/"], "only public keys"),
    ],
)
def test_where_there_is_nothing_to_sign_with(
    overrides: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "d1", *[part for each in overrides for part in ("--set", each)]]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
