"""URLs of several servers: who is asked, and as whom the one is talked to that they name."""

from __future__ import annotations

import pytest

from zpush.errors import ConfigError
from zpush.store.endpoint import Endpoint
from zpush.store.url import Kind, Place, read_url

SECRET = "s3cret"


def test_one_server() -> None:
    assert read_url("redis://h:1/2") == Place(Kind.STANDALONE, Endpoint("h", 1, db=2))
    assert read_url("unix:///run/s").where == "/run/s"


def test_sentinels_have_their_own_port_and_credentials() -> None:
    place = read_url("redis+sentinel://u:p%40@a,b:7,[::1],[::2]:8/main/3?sentinel_username=w&sentinel_password=x")
    assert (place.kind, place.service) == (Kind.SENTINEL, "main")
    assert (place.server.username, place.server.password, place.server.db) == ("u", "p@", 3)
    assert [(s.host, s.port) for s in place.asked] == [("a", 26379), ("b", 7), ("::1", 26379), ("::2", 8)]
    assert {(s.username, s.password, s.db) for s in place.asked} == {("w", "x", 0)}
    assert place.where == "a:26379,b:7,[::1]:26379,[::2]:8"


def test_sentinels_are_not_told_the_servers_password() -> None:
    place = read_url(f"redis+sentinel://:{SECRET}@a/main")
    assert place.server.password == SECRET
    assert [s.password for s in place.asked] == [""]


def test_a_cluster() -> None:
    place = read_url("redis+cluster://u:p@a,b:7")
    assert place.kind is Kind.CLUSTER
    assert [(s.host, s.port) for s in place.asked] == [("a", 6379), ("b", 7)]
    assert {(s.username, s.password) for s in place.asked} == {("u", "p")}


def test_tls_holds_for_all() -> None:
    place = read_url("rediss+sentinel://a,b/main?ssl_check_hostname=false")
    assert all(each.tls is not None and not each.tls.check_hostname for each in (place.server, *place.asked))
    assert all(each.tls is not None and each.tls.check_hostname for each in read_url("rediss+cluster://a,b").asked)
    assert read_url("redis+cluster://a").server.tls is None


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://u:{SECRET}@h",
        f"redis+sentinel://u:{SECRET}@h/",
        f"redis+sentinel://u:{SECRET}@/main",
        f"redis+sentinel://u:{SECRET}@h/main/x",
        f"redis+sentinel://u:{SECRET}@h/ma in",
        f"redis+sentinel://u:{SECRET}@h/main?databse=1",
        f"redis+sentinel://u:{SECRET}@h/main?ssl_cert_reqs=none",
        f"redis+sentinel://u:{SECRET}@h:port/main",
        f"redis+sentinel://u:{SECRET}@{','.join(['h'] * 101)}/main",
        f"redis+sentinel://u:12/{SECRET}@h/main",
        f"redis+cluster://u:12/{SECRET}@h",
        f"redis+cluster://u:12?{SECRET}@h",
        f"redis+cluster://u:12#{SECRET}@h",
        f"redis+cluster://u:{SECRET}@h/1",
        f"redis+cluster://u:{SECRET}@h?db=one",
        f"redis+cluster://u:{SECRET}@h?db=1",
        f"redis+cluster://u:{SECRET}@h?sentinel_password={SECRET}",
        f"redis+replica://u:{SECRET}@h",
        f"unix+cluster://u:{SECRET}@h",
        f"rediss+cluster://u:{SECRET}@h?ssl_ca_certs=/nowhere",
    ],
)
def test_refuses_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_url(url)
    assert SECRET not in str(refused.value) and "12" not in str(refused.value)


def test_where_never_shows_credentials() -> None:
    for url in (f"redis+sentinel://u:{SECRET}@h/main?sentinel_password={SECRET}", f"redis+cluster://u:{SECRET}@h"):
        assert SECRET not in read_url(url).where + repr(read_url(url))
