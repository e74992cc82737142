"""Tokens and sets of keys (zpush/auth/jwt.py, cookie.py, jwk.py)."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode
from typing import Any

from hypothesis import strategies as st

from tests.auth.tokens import KEY, NOW, OTHER, b64, ec_key, jwk, signed
from tests.fuzz.control import DEEP, JSON_VALUES
from tests.fuzz.target import Target, damaged
from zpush.auth.cookie import CookieAuthenticator
from zpush.auth.jwk import Unusable, from_secret, read_key_set
from zpush.auth.jwt import JwtVerifier
from zpush.errors import Unauthorized
from zpush.protocol.message import check_id

VERIFIER = JwtVerifier([from_secret(KEY)], now_s=lambda: NOW)
COOKIES = CookieAuthenticator([KEY], now_s=lambda: NOW)
LEEWAY_S = 30

HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256"] * 6 + ["none", "RS256", "ES256", "HS512", "", 5])},
    optional={
        "typ": st.sampled_from(["JWT", 5]),
        "kid": st.sampled_from(["a", "", 5, None]),
        "crit": st.sampled_from([["exp"], "exp", []]),
        "b64": st.booleans(),
        "jwk": st.just({"kty": "oct", "k": "b28"}),
        "zip": st.just("DEF"),
    },
)
IDS = st.one_of(st.sampled_from(["d1", "", "a\nb", "x" * 256, "\ud800", 5, None, ["d1"]]), JSON_VALUES)
TIMES = st.one_of(
    st.sampled_from([NOW + 60, NOW - LEEWAY_S, NOW - 31, NOW + 0.5, 0, -1, 10**400, "1900000000", True, None]),
    st.floats(),
)
CLAIMS = st.fixed_dictionaries(
    {"sub": IDS, "exp": TIMES},
    optional={"uid": IDS, "nbf": TIMES, "iat": TIMES, "aud": JSON_VALUES, "iss": JSON_VALUES},
)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


CONTENTS = st.one_of(CLAIMS.map(_json), CLAIMS.map(_json), damaged(CLAIMS.map(_json)), DEEP, JSON_VALUES.map(_json))
KEYS = st.sampled_from([KEY, KEY, KEY, OTHER])
TOKENS = st.one_of(
    st.builds(signed, HEADERS, CONTENTS, KEYS),
    damaged(st.builds(signed, HEADERS.map(_json), CONTENTS, KEYS)),
    damaged(st.builds(lambda content, key: _cookie(content, key), CONTENTS, KEYS)),
    st.builds(lambda content, key: _cookie(content, key), CONTENTS, KEYS),
    st.binary(max_size=20),
)
MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "k", "n", "e", "d", "x", "y", "crv", "alg", "use", "kid", "key_ops"]),
    st.one_of(JSON_VALUES, st.sampled_from(["oct", "RSA", "EC", "P-256", "AQAB", "sig", "ES256", "A" * 43])),
    max_size=5,
)
SETS = damaged(
    st.one_of(
        st.lists(st.builds(lambda more: {**jwk(ec_key()), **more}, MEMBERS), max_size=3).map(
            lambda k: _json({"keys": k})
        ),
        st.lists(MEMBERS, max_size=3).map(lambda keys: _json({"keys": keys})),
        DEEP,
    )
)


def _cookie(content: bytes, key: bytes) -> bytes:
    payload = b64(content)
    return payload + b"." + b64(hmac.digest(key, payload, "sha256"))


def check_token(token: bytes) -> None:
    """A token is refused, or it was signed with the key, says who it is for, and has not expired."""
    for judge in (VERIFIER.verify, COOKIES.verify_token):
        try:
            identity = judge(token)
        except Unauthorized as error:
            assert str(error)
            continue
        text, _, signature = token.rpartition(b".")
        mac = hmac.digest(KEY, text, "sha256")
        assert urlsafe_b64decode(signature + b"==") == mac, "not signed with the key"
        content = json.loads(urlsafe_b64decode(text.rpartition(b".")[2] + b"==="))
        assert identity.client_id == check_id(content["sub"], "sub")
        assert identity.user_id == (content.get("uid") or "")
        assert identity.expires_s == content["exp"] > NOW - LEEWAY_S - 1


def check_keys(document: bytes) -> None:
    """A set gives keys that can be used, with a reason for each that cannot; or it is no set."""
    try:
        found = read_key_set(document)
    except Unusable as error:
        assert str(error)
        return
    assert found.keys
    assert all(found.left_out)
    JwtVerifier(found.keys)


TOKEN = Target("tokens", TOKENS, check_token, 150)
KEY_SET = Target("keys", SETS, check_keys, 60)
