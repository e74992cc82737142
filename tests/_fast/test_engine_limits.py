"""Rates, and connections that say who they are after they are open."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import OPENED, Harness, Peer
from zpush._fast.frames import encode_frame
from zpush.protocol.message import Outcome

WHEEL_MAX_S = 32_000  # no keepalive in between


async def test_a_client_that_sends_too_much_is_closed_with_4008(harness: MakeHarness) -> None:
    h = harness(echo=True, inbound_messages=3, inbound_window_s=10)
    peer = await h.open("raw/alice")
    for _ in range(3):
        await peer.send_frame(1, b"x")
        await peer.expect_frame(1, b"x")
    h.engine.sweep(10)
    await peer.send_frame(9, b"")
    await peer.expect_frame(10, b"")
    for _ in range(3):
        await peer.send_frame(9, b"")
    answer = await peer.rest()
    assert answer.count(b"\x8a\x00") == 2
    assert b"\x0f\xa8too many messages" in answer
    assert h.row.get("inbound_limited") == 1
    assert h.row.get("closes_4008") == 1


async def test_pongs_are_free(harness: MakeHarness) -> None:
    h = harness(inbound_messages=1)
    peer = await h.open("raw/alice")
    for _ in range(20):
        await peer.send_frame(10, b"")
    await h.until(lambda: h.row.get("frames_received") == 20)
    assert h.engine.connections == 1


async def test_zuuls_three_messages_in_two_seconds(harness: MakeHarness) -> None:
    h = harness(outbound_messages=3, outbound_window_s=2)
    alice, bob = await h.open("raw/alice"), await h.open("raw/bob")
    outcomes, _ = h.engine.deliver_many([(b"alice", b"1", b"x", 1)] * 5 + [(b"bob", b"1", b"x", 1)])
    assert list(outcomes) == [Outcome.DELIVERED] * 3 + [Outcome.RATE_LIMITED] * 2 + [Outcome.DELIVERED]
    h.engine.sweep(1)  # one and a half are back
    outcomes, _ = h.engine.deliver_many([(b"alice", b"2", b"y", 1)] * 2)
    assert list(outcomes) == [Outcome.DELIVERED, Outcome.RATE_LIMITED]
    h.engine.sweep(1)  # two
    outcomes, _ = h.engine.deliver_many([(b"alice", b"3", b"z", 1)] * 3)
    assert list(outcomes) == [Outcome.DELIVERED] * 2 + [Outcome.RATE_LIMITED]
    for text in (b"x", b"x", b"x", b"y", b"z", b"z"):
        await alice.expect_frame(1, text)
    assert h.row.get("outbound_limited") == 4
    bob.close()


@pytest.mark.parametrize(("messages", "window_s"), [(3, 2), (2, 3), (1, 3600), (65535, 1), (7, 10)])
async def test_a_rate_holds_over_any_time(messages: int, window_s: int, harness: MakeHarness) -> None:
    """At no time more than a full bucket and what came back since; and that much is let pass."""
    h = harness(outbound_messages=messages, outbound_window_s=window_s, keepalive_s=WHEEL_MAX_S)
    peer = await h.open("raw/alice")
    chance = random.Random(messages)
    tokens = Fraction(messages)
    spent_at: list[int] = []
    step = max(1, window_s // 9)
    for now_s in range(0, 8 * window_s + 8, step):
        for _ in range(chance.randrange(4)):
            [outcome], _ = h.engine.deliver_many([(b"alice", b"1", b"x", 1)])
            assert (outcome == Outcome.DELIVERED) == (tokens >= 1)
            if tokens >= 1:
                tokens -= 1
                spent_at.append(now_s)
        h.engine.sweep(step)
        tokens = min(Fraction(messages), tokens + Fraction(messages * step, window_s))
    for i, begin_s in enumerate(spent_at):
        for count, end_s in enumerate(spent_at[i:], 1):
            assert count <= messages + Fraction(messages * (end_s - begin_s), window_s)
    peer.close()


async def test_a_rate_that_a_reload_has_lowered_locks_nobody_out(harness: MakeHarness) -> None:
    h = harness(outbound_messages=1000, outbound_window_s=3600)
    peer = await h.open("raw/alice")
    h.engine.deliver_many([(b"alice", b"1", b"x", 1)] * 1000)
    h.engine.set_limits(replace(h.limits, outbound_messages=1, outbound_window_s=10))
    outcomes, _ = h.engine.deliver_many([(b"alice", b"2", b"y", 1)] * 2)
    assert list(outcomes) == [Outcome.DELIVERED, Outcome.RATE_LIMITED]
    h.engine.set_limits(replace(h.limits, outbound_messages=1, outbound_window_s=10))
    outcomes, _ = h.engine.deliver_many([(b"alice", b"3", b"y", 1)])
    assert list(outcomes) == [Outcome.RATE_LIMITED], "the same rate once more fills nothing"
    peer.close()


async def test_a_clients_rate_holds_for_broadcasts_too(harness: MakeHarness) -> None:
    h = harness(outbound_messages=3, outbound_window_s=2)
    peers = {p: await h.open(f"{p}/{p}") for p in ("raw", "v1", "sse")}
    h.engine.deliver_many([(b"raw", b"0", b"first", 1)])
    tokens = [h.engine.broadcast(b"%d" % i, b"all %d" % i, 1) for i in range(5)]
    await h.until(lambda: len(h.notes.broadcasts) == 5)
    taken = [h.notes.broadcasts[token].get(Outcome.DELIVERED, 0) for token in tokens]
    limited = [h.notes.broadcasts[token].get(Outcome.RATE_LIMITED, 0) for token in tokens]
    assert (taken, limited) == ([3, 3, 2, 0, 0], [0, 0, 1, 3, 3])
    assert h.row.get("outbound_limited") == 7
    h.engine.sweep(2)
    h.engine.broadcast(b"9", b"all 9", 1)
    for text in (b"first", b"all 0", b"all 1", b"all 9"):
        await peers["raw"].expect_frame(1, text)
    for id in (b"0", b"1", b"2", b"9"):
        await peers["v1"].expect_frame(1, b'{"id":"%b","data":"all %b"}' % (id, id))


async def test_what_a_rate_lets_pass_to_a_slow_consumer_waits_for_it(harness: MakeHarness) -> None:
    """The first two of three wait in its write buffer, and the third ends at once."""
    h = harness(outbound_messages=3, outbound_window_s=60, unsent_bytes=20_000_000)
    slow = await h.open("raw/slow", receive_bytes=4096)
    [outcome], _ = h.engine.deliver_many([(b"slow", b"0", b"x" * 8_000_000, 1)])
    assert outcome == Outcome.PENDING
    tokens = [h.engine.broadcast(b"%d" % i, b"all %d" % i, 1) for i in range(3)]
    await h.until(lambda: tokens[2] in h.notes.broadcasts)
    assert h.notes.broadcasts == {tokens[2]: {Outcome.RATE_LIMITED: 1}}
    await slow.skip_to(encode_frame(1, b"all 0") + encode_frame(1, b"all 1"))
    await h.until(lambda: len(h.notes.broadcasts) == 3)
    assert [h.notes.broadcasts[token] for token in tokens[:2]] == [{Outcome.DELIVERED: 1}] * 2


async def open_unknown(h: Harness, protocol: int = 1) -> tuple[Peer, int]:
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    handle = h.notes.requests[-1][0]
    assert h.engine.open_unknown(handle, OPENED, protocol, 8)
    assert await peer.take(len(OPENED)) == OPENED
    return peer, handle


async def test_an_unknown_client_is_heard_but_not_reached(harness: MakeHarness) -> None:
    h = harness(echo=True)
    peer, handle = await open_unknown(h)
    assert h.row.get("connections_unknown") == 1
    assert h.row.get("connections_websocket") == 0
    h.engine.broadcast(b"1", b"all", 1)
    await h.until(lambda: h.notes.broadcasts)
    assert list(h.notes.broadcasts.values()) == [{}]
    assert h.engine.renewals(10) == []
    await peer.send_frame(1, b'{"auth":"t"}')
    await h.until(lambda: h.notes.messages)
    assert h.notes.messages == [(handle, 1, b'{"auth":"t"}')]


async def test_it_is_bound_admitted_and_lives_to_its_age(harness: MakeHarness) -> None:
    h = harness(keepalive_s=3600)
    peer, handle = await open_unknown(h)
    h.engine.bind(handle, b"alice", b"u", 1)
    with pytest.raises(KeyError):
        h.engine.bind(handle, b"mallory", b"u", 1)
    assert h.engine.admit(handle, 9, 100, False)
    assert h.engine.client(handle) == (b"alice", b"u", 9)
    assert h.row.get("connections_unknown") == 0
    assert h.row.get("connections_websocket") == 1
    assert h.engine.deliver_many([(b"alice", b"1", b"hi", 1)])[0] == bytes([Outcome.DELIVERED])
    await peer.expect_frame(1, b"hi")
    h.engine.sweep(90)
    assert h.row.get("go_aways_sent") == 0
    h.engine.sweep(11)
    assert h.row.get("go_aways_sent") == 1


async def test_who_says_nothing_is_closed_with_4001(harness: MakeHarness) -> None:
    h = harness()
    peer, _ = await open_unknown(h)
    h.engine.sweep(9)
    await peer.expect_frame(8, b"\x0f\xa1not authenticated in time")
    assert h.notes.closes == []
    assert h.row.get("closes_4001") == 1


async def test_a_newer_token_takes_the_go_away_back(harness: MakeHarness) -> None:
    h = harness(keepalive_s=3600)
    peer, handle = await open_unknown(h)
    h.engine.bind(handle, b"alice", b"", 1)
    h.engine.admit(handle, 9, 10, True)
    h.engine.sweep(11)
    assert h.row.get("go_aways_sent") == 1
    assert h.engine.admit(handle, 9, 1000, True)
    h.engine.sweep(900)
    assert h.engine.is_open(handle)
    assert h.row.get("go_aways_sent") == 1
    h.engine.sweep(102)
    h.engine.sweep(5)
    assert h.notes.closes[0][4] == 4006
    peer.close()
