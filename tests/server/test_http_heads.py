"""Heads that were read before: what is learned, what is not, and that limits hold for what is known as well."""

from __future__ import annotations

import pytest

from zpush.server.http_heads import MAX_BYTES, MAX_HEADS, KnownHeads
from zpush.server.http_message import HttpRequest, HttpResponse, Route, error_response
from zpush.server.http_parser import BodyBudget, HttpLimits, RequestReader

HEAD = b"POST /p HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n"


class Site:
    """A reader, and what may be changed between two requests."""

    def __init__(self, heads: KnownHeads, budget_bytes: int = 1 << 20) -> None:
        self.refusing = False
        self.body_bytes = 1000
        self.chosen = 0
        self.budget = BodyBudget(budget_bytes)
        self.reader = RequestReader(self.choose, 1000, HttpLimits(), self.budget, heads)

    def choose(self, request: HttpRequest) -> Route | HttpResponse:
        self.chosen += 1
        if self.refusing:
            return error_response(401, "unauthorized", "no")
        return Route(lambda _: HttpResponse(200), self.body_bytes)

    def read(self, data: bytes) -> list[HttpRequest]:
        self.reader.feed(data)
        requests = [request for request, _ in self.reader.ready]
        self.reader.ready.clear()
        for request in requests:
            self.reader.release(request)
        return requests


def test_the_same_head_is_found_again_with_another_body() -> None:
    heads = KnownHeads()
    [first] = Site(heads).read(HEAD + b"abc")
    again = heads.request(HEAD + b"xyz")
    assert again is not None and again.body == b"xyz"
    assert (again.method, again.path, again.headers, again.length) == ("POST", "/p", first.headers, 3)
    assert first.body == b"abc"


@pytest.mark.parametrize(
    "data", [HEAD, HEAD + b"ab", HEAD + b"abcd", HEAD + b"abc" + HEAD + b"abc", b"\r\n" + HEAD + b"abc"]
)
def test_what_is_not_one_whole_request_is_left_to_the_parser(data: bytes) -> None:
    heads = KnownHeads()
    Site(heads).read(HEAD + b"abc")
    assert heads.request(HEAD + b"abc") is not None
    assert heads.request(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"POST /p HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /p HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /p HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /p HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /p HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /p HTTP/1.1\r\nHost: t\r\nX: " + b"x" * MAX_BYTES + b"\r\nContent-Length: 3\r\n\r\nabc",
        HEAD + b"abc\r\n",
        HEAD + b"abc" + HEAD + b"abc",
    ],
)
def test_what_is_not_learned(data: bytes) -> None:
    heads = KnownHeads()
    assert Site(heads).read(data)
    assert heads.request(data) is None


def test_a_head_behind_empty_lines_is_not_taken_for_nothing() -> None:
    heads = KnownHeads()
    assert Site(heads).read(b"\r\n\r\n" + HEAD + b"abc")
    assert heads.request(b"\r\n\r\nabc") is None


def test_nothing_is_learned_of_who_may_not_call() -> None:
    heads = KnownHeads()
    site = Site(heads)
    site.refusing = True
    assert site.read(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    assert heads.request(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n") is None


def test_who_calls_is_asked_each_time() -> None:
    site = Site(KnownHeads())
    assert site.read(HEAD + b"abc") and site.read(HEAD + b"abc")
    assert site.chosen == 2
    site.refusing = True
    assert not site.read(HEAD + b"abc")
    assert site.reader.refusal is not None and site.reader.refusal.status == 401


def test_a_known_head_is_no_way_around_a_limit() -> None:
    site = Site(KnownHeads())
    site.read(HEAD + b"abc")
    site.body_bytes = 2
    assert not site.read(HEAD + b"abc")
    assert site.reader.refusal is not None and site.reader.refusal.status == 413


def test_a_known_requests_body_counts_in_the_budget() -> None:
    site = Site(KnownHeads(), budget_bytes=5)
    site.read(HEAD + b"abc")
    site.reader.feed(HEAD + b"abc")
    assert site.budget.held_bytes == 3
    site.reader.feed(HEAD + b"abc")
    assert site.reader.refusal is not None and site.reader.refusal.status == 503
    site.reader.close()
    assert site.budget.held_bytes == 0


def test_the_number_of_heads_is_bounded() -> None:
    heads = KnownHeads()
    site = Site(heads)
    for n in range(3 * MAX_HEADS):
        site.read(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % n)
    assert len(heads._known) <= MAX_HEADS
    assert heads.request(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % n) is not None
