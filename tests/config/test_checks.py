"""What settings together must fulfil: safe by default, and no impossible combination starts."""

from __future__ import annotations

import pytest

from zpush import config
from zpush.errors import ConfigError

KEY = "k" * 16
CHOSEN = ["auth.mode=dev", f"peers.secret={KEY}"]
SENTINELS = ["registry.url=redis+sentinel://r,s/main", "queue.url=redis+sentinel://q,r/main"]
REMOTE = ["registry.url=redis://r", "queue.url=redis://q"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["server.bind=0.0.0.0:8080"], 'with auth.mode "dev" only a loopback address is allowed'),
        (["auth.mode=jwt"], "auth.keys_file must be set, or auth.jwks_file, or auth.jwks_url"),
        (["auth.mode=cookie"], "auth.keys_file and auth.cookie must be set"),
        (["auth.mode=cookie", "auth.keys_file=f", "auth.cookie="], "auth.keys_file and auth.cookie must be set"),
        (["auth.mode=hook"], "auth.hook_url must be set"),
        (["auth.delayed=true"], 'auth.mode "dev" takes no tokens by message'),
        (["auth.delayed=true", "auth.mode=python:a:b"], "takes no tokens by message"),
        ([*REMOTE, f"peers.secret={KEY}"], "auth.mode must be chosen"),
        (["api.bind=0.0.0.0:8081"], "api.keys or api.keys_file must be set"),
        (["api.bind=example.com:8081"], "api.keys or api.keys_file must be set"),
        (["processor.metrics_bind=0.0.0.0:8090"], "api.keys or api.keys_file must be set"),
        (["processor.metrics_bind=8090"], "or empty"),
        ([f"processor.control_socket={'x' * 108}"], "its path may be 107 bytes long"),
        ([f"api.keys={KEY}", "api.keys_file=f"], "allowed is one of them"),
        ([f"api.keys=push:{KEY[1:]}"], "allowed is a list of 0 to 1000 different values, each 16 to 256 printable"),
        (["api.keys=operate:s3cret12"], "which push:, read: or operate: may precede"),
        ([f'api.keys=["{KEY}x", "read:{KEY}", "push:{KEY}"]'], "api.keys holds one key in entries 2 and 3"),
        ([f'api.keys=["{KEY}", "push:{KEY}"]'], "api.keys holds one key in entries 1 and 2"),
        (["peers.bind=10.0.0.1"], "peers.secret or peers.secret_file must be set"),
        ([*REMOTE, "auth.mode=dev"], "peers.secret or peers.secret_file must be set"),
        ([f"peers.secret={KEY}", "peers.secret_file=f"], "allowed is one of them"),
        (["peers.bind=0.0.0.0", f"peers.secret={KEY}"], "peers.advertise must say"),
        (["peers.port=65535", "server.workers=2"], "it would pass 65535"),
        (["connections.proxy_protocol=true"], "connections.trusted_proxies must name the proxies"),
        (["connections.trusted_proxies=10.0.0.1/8"], "connections.trusted_proxies"),
        (["connections.trusted_proxies=lb.example.com"], "connections.trusted_proxies"),
        (["connections.trusted_proxies=fe80::1%eth0"], "connections.trusted_proxies"),
        (["connections.max_age=2m"], "max_age_jitter must be less than max_age"),
        (["registry.lease_ttl=5s"], "must not be less than node_ttl"),
        (["connections.unsent_budget_bytes=64KiB"], "must not be more than unsent_budget_bytes"),
        (["queue.max_messages=7"], "must not be less than partitions"),
        ([f"registry.password={KEY}"], "registry.url names no Redis or Valkey of yours"),
        (["queue.password_file=f"], "queue.url names no Redis or Valkey of yours"),
        ([*SENTINELS, f"registry.password={KEY}", "registry.password_file=f", *CHOSEN], "allowed is one of them"),
        (
            [*SENTINELS, f"queue.sentinel_password={KEY}", "queue.sentinel_password_file=f", *CHOSEN],
            "allowed is one of them",
        ),
        ([*REMOTE, f"registry.sentinel_password={KEY}", *CHOSEN], "registry.url names no Sentinels"),
        ([f"registry.url=redis+cluster://u:{KEY}@r", f"registry.password={KEY}", *CHOSEN], "holds a password"),
        ([f"queue.url=redis+sentinel://:{KEY}@r,s/main", "queue.password_file=f", *CHOSEN], "holds a password"),
        (["queue.url=redis+cluster://q"], "redis+sentinel://, rediss+sentinel://, kafka://"),
        ([*REMOTE, "registry.read_from=replica", *CHOSEN], "registry.url must say where replicas are found"),
        (["registry.read_from=replica"], "registry.url must say where replicas are found"),
        (["server.data_dir=/" + "d" * 100], "its path may be 107 bytes long"),
        (["server.control_socket=/" + "d" * 107], "its path may be 107 bytes long"),
    ],
)
def test_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(None, {}, overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["server.bind=0.0.0.0:8080", "auth.mode=jwt", "auth.keys_file=f"],
        ["server.bind=0.0.0.0:8080", "auth.mode=jwt", "auth.jwks_file=f"],
        ["server.bind=0.0.0.0:8080", "auth.mode=jwt", "auth.jwks_url=https://id.example.com/keys?a=b"],
        ["server.bind=0.0.0.0:8080", "auth.mode=cookie", "auth.keys_file=f", "auth.delayed=true"],
        ["server.bind=0.0.0.0:8080", "auth.mode=hook", "auth.hook_url=http://auth.internal:9000/who"],
        ["server.bind=0.0.0.0:8080", "auth.mode=python:package.module:function"],
        ["server.bind=[::1]:8080", "api.bind=localhost:0"],
        ["api.bind=0.0.0.0:8081", f"api.keys={KEY}"],
        [f'api.keys=["push:{KEY}", "read:{KEY}2", "operate:{KEY}3", "other:{KEY}"]'],
        ["api.bind=0.0.0.0:8081", "api.keys_file=f"],
        ["processor.metrics_bind=0.0.0.0:8090", "api.keys_file=f"],
        ["peers.bind=0.0.0.0", "peers.advertise=10.0.0.1", f"peers.secret={KEY}"],
        ["queue.url=redis://q"],  # the registry is embedded: still one box
        [*REMOTE, "auth.mode=dev", "peers.secret_file=f"],
        ["connections.proxy_protocol=true", "connections.trusted_proxies=10.0.0.0/8,2001:db8::/32,192.0.2.1"],
        ["connections.max_age=2s", "connections.max_age_jitter=0"],
        ["registry.url=redis+cluster://u@r,s:7", f"registry.password={KEY}", "registry.read_from=replica", *CHOSEN],
        [*SENTINELS, "registry.password_file=f", f"registry.sentinel_password={KEY}", *CHOSEN],
        [*SENTINELS, "queue.password_file=f", "queue.sentinel_password_file=f", "registry.read_from=replica", *CHOSEN],
    ],
)
def test_allowed(overrides: list[str]) -> None:
    config.load(None, {}, overrides)


def test_the_complaint_names_the_place() -> None:
    with pytest.raises(ConfigError, match=r"^ZPUSH_API__BIND: api\.bind is "):
        config.load(None, {"ZPUSH_API__BIND": "0.0.0.0:8081"}, [])


@pytest.mark.parametrize(
    "override",
    [
        "auth.mode=magic",
        "auth.mode=python:",
        "auth.mode=python:module",
        "auth.mode=python:a..b:f",
        "auth.mode=python:a:b:c",
        "auth.mode=python:os; a:f",
        "auth.algorithms=none",
        "auth.algorithms=HS256,RS512",
        "auth.jwks_url=http://id.example.com/keys",
        "auth.jwks_url=http://localhost.example.com/",
        "auth.jwks_url=http://127.0.0.1@example.com/",
        "auth.jwks_url=http://127.0.0.1.example.com/",
        "auth.jwks_url=https://user:secret@id.example.com/keys",
        "auth.jwks_url=file:///etc/passwd",
        "auth.jwks_url=https://",
        "auth.hook_url=ftp://auth/",
        "auth.hook_url=http://user:secret@auth/",
        "auth.hook_headers=a b",
        "auth.hook_down=allow",
    ],
)
def test_auth_settings_out_of_bounds(override: str) -> None:
    with pytest.raises(ConfigError, match="allowed is") as caught:
        config.load(None, {}, [override])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost/k", "http://127.0.0.1:8000", "http://[::1]:8000/k", "https://a:1/"])
def test_where_keys_may_be_fetched(url: str) -> None:
    assert config.load(None, {}, [f"auth.jwks_url={url}"]).auth.jwks_url == url


def test_a_default_that_is_at_fault_has_no_place() -> None:
    with pytest.raises(ConfigError, match=r"^peers\.secret or peers\.secret_file must be set"):
        config.load(None, {}, [*REMOTE, "auth.mode=dev"])
