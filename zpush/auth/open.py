"""From [auth] to the authenticator. A mode's libraries are loaded only where the mode is used."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from zpush.auth.base import Authenticator
from zpush.config import Settings, read_secret_file
from zpush.config.settings import Auth
from zpush.errors import ConfigError

if TYPE_CHECKING:
    from zpush.auth.jwk import VerifyKey

_log = logging.getLogger("zpush.auth")


def open_authenticator(settings: Settings) -> Authenticator:
    """Raises ConfigError where the mode is not chosen, or a file it needs cannot be used. Start it before its use."""
    auth = settings.auth
    if auth.mode.startswith("python:"):
        from zpush.auth.plugin import PluginAuthenticator, load

        return PluginAuthenticator(load(auth.mode), auth.hook_timeout_s)
    opener = {"dev": _dev, "jwt": _jwt, "cookie": _cookie, "hook": _hook}.get(auth.mode)
    if opener is None:
        raise ConfigError(
            f'auth.mode is "{auth.mode}": it must be "jwt", "cookie", "hook", "python:module:function" or "dev"'
        )
    return opener(auth)


def _dev(auth: Auth) -> Authenticator:
    from zpush.auth.dev import DevAuthenticator

    return DevAuthenticator()


def _jwt(auth: Auth) -> Authenticator:
    from zpush.auth.jwt import JwtVerifier
    from zpush.auth.jwt_authenticator import JwtAuthenticator

    verifier = JwtVerifier(
        algorithms=auth.algorithms, audience=auth.audience, issuer=auth.issuer, leeway_s=auth.leeway_s
    )
    return JwtAuthenticator(
        verifier,
        _verify_keys(auth),
        url=auth.jwks_url,
        refresh_s=auth.jwks_refresh_s,
        capacity=auth.token_cache,
        cookie=auth.cookie,
        query_token=auth.query_token,
    )


def _verify_keys(auth: Auth) -> list[VerifyKey]:
    """Those of the files. One that auth.algorithms does not allow is never used: silence would be a riddle."""
    from zpush.auth.jwk import Unusable, from_pem, from_secret, read_key_set
    from zpush.auth.keys import load_key_file

    keys: list[VerifyKey] = []
    if auth.keys_file:
        file = load_key_file(auth.keys_file)
        keys += [from_secret(secret) for secret in file.secrets]
        keys += [from_pem(pem) for pem in file.public_keys]
    if auth.jwks_file:
        try:
            found = read_key_set(read_secret_file(auth.jwks_file, lambda _: True))
        except Unusable as e:
            raise ConfigError(f"{auth.jwks_file}: {e}") from None
        for reason in found.left_out:
            _log.debug("%s: a key of the set is not used: %s", auth.jwks_file, reason)
        keys += found.keys
    useless = {key.algorithm for key in keys} - set(auth.algorithms or [key.algorithm for key in keys])
    if useless:
        raise ConfigError(
            f"auth.algorithms allows {', '.join(auth.algorithms)}, and there are keys for {', '.join(sorted(useless))}"
        )
    return keys


def _cookie(auth: Auth) -> Authenticator:
    from zpush.auth.cookie import CookieAuthenticator
    from zpush.auth.keys import load_keys

    return CookieAuthenticator(
        load_keys(auth.keys_file), cookie=auth.cookie, query_token=auth.query_token, leeway_s=auth.leeway_s
    )


def _hook(auth: Auth) -> Authenticator:
    from zpush.auth.hook import HookAuthenticator

    return HookAuthenticator(
        auth.hook_url,
        headers=auth.hook_headers,
        timeout_s=auth.hook_timeout_s,
        concurrency=auth.hook_concurrency,
        cache_s=auth.hook_cache_s,
        keep_s=auth.hook_stale_s if auth.hook_down == "allow_cached" else 0.0,
        capacity=auth.token_cache,
        cookie=auth.cookie,
        query_token=auth.query_token,
    )
