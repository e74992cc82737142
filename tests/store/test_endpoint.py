"""URLs: what each one means, and that none is repeated where it is wrong."""

from __future__ import annotations

import pytest

from zpush.errors import ConfigError
from zpush.store.endpoint import Endpoint, read_endpoint

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://", Endpoint(host="127.0.0.1", port=6379)),
        ("redis://db.example:7000", Endpoint(host="db.example", port=7000)),
        ("redis://h/3", Endpoint(host="h", port=6379, db=3)),
        ("redis://h?db=4", Endpoint(host="h", port=6379, db=4)),
        ("redis://[::1]:7", Endpoint(host="::1", port=7)),
        ("redis://u:p%40%2F@h", Endpoint(host="h", port=6379, username="u", password="p@/")),
        ("unix:///run/valkey.sock", Endpoint(path="/run/valkey.sock")),
        ("unix://:pw@/run/a%20b?db=2", Endpoint(path="/run/a b", db=2, password="pw")),
    ],
)
def test_reads(url: str, endpoint: Endpoint) -> None:
    assert read_endpoint(url) == endpoint


def test_tls_checks_the_certificate_unless_told_otherwise() -> None:
    strict, lax = read_endpoint("rediss://h").tls, read_endpoint("rediss://h?ssl_cert_reqs=none").tls
    assert strict is not None and strict.check_hostname
    assert lax is not None and not lax.check_hostname
    assert read_endpoint("redis://h").tls is None


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@h",
        f"redis+sentinel://u:{SECRET}@h/service",
        f"redis://u:{SECRET}/x@h:1",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@h:99999",
        f"redis://u:{SECRET}@h/one",
        f"redis://u:{SECRET}@h?db=one",
        f"redis://u:{SECRET}@h?databse=1",
        f"redis://u:{SECRET}@h?ssl_cert_reqs=none",
        f"redis://u:{SECRET}@{'h' * 64}",
        f"redis://u:{SECRET}@[::1",
        f"rediss://u:{SECRET}@h?ssl_cert_reqs=maybe",
        f"rediss://u:{SECRET}@h?ssl_ca_certs=/nowhere",
        f"unix://:{SECRET}@",
        f"h:6379,password={SECRET}",
        "",
    ],
)
def test_refuses_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_endpoint(url)
    assert SECRET not in str(refused.value)


def test_where_never_shows_credentials() -> None:
    assert read_endpoint(f"redis://u:{SECRET}@h:1").where == "h:1"
    assert read_endpoint(f"redis://u:{SECRET}@[::1]:1").where == "[::1]:1"
    assert read_endpoint(f"unix://u:{SECRET}@/run/s").where == "/run/s"
    assert SECRET not in repr(read_endpoint(f"redis://u:{SECRET}@h:1"))
