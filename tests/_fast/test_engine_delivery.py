"""Outcomes: delivered, pending then settled, dropped, not here; slow consumers; broadcasts; leases."""

from __future__ import annotations

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import OPENED, Harness
from zpush._fast.frames import encode_frame
from zpush.protocol.message import Outcome

BIG = b"x" * 20_000


def deliver(h: Harness, *entries: tuple[bytes, bytes], kind: int = 1) -> tuple[list[int], list[tuple[int, int]]]:
    outcomes, pending = h.engine.deliver_many([(client, b"id", payload, kind) for client, payload in entries])
    return list(outcomes), pending


async def fill(h: Harness, client: bytes = b"slow") -> list[int]:
    """Messages until one is pending; its and all later tokens."""
    for _ in range(1000):
        _, pending = deliver(h, (client, BIG))
        if pending:
            return [token for _, token in pending]
    raise AssertionError("the kernel took 20 MB")


async def test_a_batch_has_an_outcome_for_each(harness: MakeHarness) -> None:
    h = harness()
    alice, bob = await h.open("raw/alice"), await h.open("sse/bob")
    sends = h.row.get("sends")
    outcomes, pending = deliver(h, (b"alice", b"1"), (b"nobody", b"2"), (b"bob", b"3\n4"), (b"alice", b"5"))
    assert outcomes == [Outcome.DELIVERED, Outcome.NOT_HERE, Outcome.DELIVERED, Outcome.DELIVERED]
    assert pending == []
    assert h.row.get("sends") - sends == 2, "what is due for one connection leaves in one send"
    await alice.expect_frame(1, b"1")
    await alice.expect_frame(1, b"5")
    wanted = b"id: id\nevent: push\ndata: 3\ndata: 4\n\n"
    assert await bob.take(len(wanted)) == wanted


async def test_kinds_per_protocol(harness: MakeHarness) -> None:
    h = harness()
    raw, v1, sse = await h.open("raw/r"), await h.open("v1/v"), await h.open("sse/s")
    deliver(h, (b"r", b"\xff\0"), (b"v", b"\xff\0"), (b"s", b"\xff\0"), kind=2)
    await raw.expect_frame(2, b"\xff\0")
    await v1.expect_frame(1, b'{"id":"id","base64":"/wA="}')
    wanted = b"id: id\nevent: binary\ndata: /wA=\n\n"
    assert await sse.take(len(wanted)) == wanted


async def test_what_comes_before_open_waits_behind_the_101(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    handle = h.notes.requests[0][0]
    h.engine.bind(handle, b"alice", b"", 1)
    outcomes, pending = deliver(h, (b"alice", b"early"))
    assert outcomes == [Outcome.PENDING]
    h.engine.open(handle, OPENED, 1, 0, False)
    assert await peer.take(len(OPENED)) == OPENED
    await peer.expect_frame(1, b"early")
    await h.until(lambda: h.notes.settled)
    assert h.notes.settled == {pending[0][1]: Outcome.DELIVERED}


async def test_pending_is_settled_when_the_client_reads(harness: MakeHarness) -> None:
    h = harness(unsent_bytes=10_000_000)
    peer = await h.open("raw/slow", receive_bytes=4096)
    tokens = await fill(h)
    _, more = deliver(h, (b"slow", b"last"))
    tokens += [token for _, token in more]
    await peer.skip_to(encode_frame(1, b"last"))
    await h.until(lambda: len(h.notes.settled) == len(tokens))
    assert h.notes.settled == dict.fromkeys(tokens, Outcome.DELIVERED)
    h.engine.sweep(1)
    assert h.row.get("unsent_bytes") == 0


async def test_pending_is_dropped_when_the_connection_ends(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/slow", receive_bytes=4096)
    tokens = await fill(h)
    peer.reset()
    await h.until(lambda: h.notes.settled)
    assert h.notes.settled == dict.fromkeys(tokens, Outcome.DROPPED)


async def test_past_the_mark_the_connection_is_closed_with_4004(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/slow", receive_bytes=4096)
    other = await h.open("raw/quick")
    await fill(h)
    outcomes: list[int] = []
    while Outcome.DROPPED not in outcomes:
        outcomes, _ = deliver(h, (b"slow", BIG), (b"quick", b"!"))
        await other.expect_frame(1, b"!")
        assert outcomes[1] == Outcome.DELIVERED
    assert h.notes.closes[0][4] == 4004
    assert deliver(h, (b"slow", b""))[0] == [Outcome.NOT_HERE]
    h.engine.sweep(6)
    assert h.engine.connections == 1
    assert h.row.get("unsent_bytes") == 0 or h.engine.sweep(1) is None
    assert h.row.get("allocated") == h.row.get("freed"), "memory is given back"
    assert len(h.notes.settled) >= 1
    assert set(h.notes.settled.values()) == {Outcome.DROPPED}
    peer.close()


async def test_past_the_mark_the_newest_is_dropped_where_the_policy_says_so(harness: MakeHarness) -> None:
    h = harness(slow_consumer="drop")
    peer = await h.open("raw/slow", receive_bytes=4096)
    await fill(h)
    for _ in range(10):
        outcomes, _ = deliver(h, (b"slow", BIG))
    assert outcomes == [Outcome.DROPPED]
    assert h.engine.find(b"slow")
    peer.close()


async def test_answers_to_a_client_that_never_reads_are_bounded(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("v1/slow", receive_bytes=4096)
    handle = h.engine.find(b"slow")
    for _ in range(1000):
        if not h.engine.send(handle, 1, BIG):
            break
        h.engine.flush()
    assert h.notes.closes[0][4] == 4004
    assert not h.engine.send(handle, 1, b"x")
    peer.close()


async def test_a_burst_above_the_mark_is_no_slow_consumer(harness: MakeHarness) -> None:
    """The mark is on what the kernel refuses, not on what one turn happens to collect."""
    h = harness(unsent_bytes=65536)
    peer = await h.open("raw/alice", receive_bytes=1 << 20)
    outcomes, _ = deliver(h, *[(b"alice", b"x" * 1000)] * 100)
    assert set(outcomes) == {Outcome.DELIVERED}
    await peer.take(100 * 1004)


async def test_unsent_bytes_have_an_age(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/slow", receive_bytes=4096)
    tokens = await fill(h)
    h.engine.sweep(30)
    assert h.notes.closes == [], "the second in which it came had begun already"
    h.engine.sweep(1)
    assert h.notes.closes[0][4] == 4004
    assert h.row.get("closes_4004") == 1
    h.engine.sweep(6)
    assert h.engine.connections == 0, "it does not read the close frame either"
    await h.until(lambda: h.notes.settled)
    assert h.notes.settled == dict.fromkeys(tokens, Outcome.DROPPED)
    peer.close()


async def test_who_reads_again_too_late_is_told_why_it_was_closed(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/slow", receive_bytes=4096)
    await fill(h)
    for _ in range(31):
        h.engine.sweep(1)
    assert h.engine.connections == 1
    await peer.skip_to(encode_frame(8, b"\x0f\xa4slow consumer"))
    peer.close()


async def test_who_has_just_been_refused_by_the_kernel_has_its_time(harness: MakeHarness) -> None:
    h = harness(unsent_age_s=1)
    peer = await h.open("raw/slow", receive_bytes=4096)
    h.engine.sweep(5)
    await fill(h)
    h.engine.sweep(0)
    assert h.notes.closes == []
    h.engine.sweep(1)
    assert h.notes.closes == []
    h.engine.sweep(1)
    assert h.notes.closes[0][4] == 4004
    peer.close()


async def test_who_reads_on_is_not_slow_though_it_never_has_it_all(harness: MakeHarness) -> None:
    """It takes what came 10 s ago, for five minutes; and is ended once it takes no more."""
    h = harness(unsent_bytes=100 * len(BIG), keepalive_s=10_000)
    h.limit_notsent()
    peer = await h.open("raw/slow", receive_bytes=4096)
    new = await fill(h)
    for _ in range(30):
        old, new = new, await fill(h)
        new += [token for _, token in deliver(h, *[(b"slow", BIG)] * 30)[1]]
        h.engine.sweep(10)
        while not h.notes.settled.keys() >= set(old):
            await peer.take(2048)
        assert h.engine.connections == 1
    assert h.notes.closes == []
    await fill(h)
    h.engine.sweep(31)
    h.engine.sweep(31)
    assert h.notes.closes[0][4] == 4004
    peer.close()


async def test_past_the_budget_the_largest_debtor_goes(harness: MakeHarness) -> None:
    h = harness(unsent_bytes=10_000_000, unsent_budget_bytes=300_000)
    peers = [await h.open(f"raw/{i}", receive_bytes=4096) for i in range(3)]
    for i in range(3):
        await fill(h, b"%d" % i)
    while h.engine.connections == 3:
        deliver(h, (b"1", BIG))
    assert [c[1] for c in h.notes.closes] == [b"1"]
    for peer in peers:
        peer.close()


async def test_what_one_batch_owes_past_the_budget_is_dropped_and_not_unknown(harness: MakeHarness) -> None:
    """What the kernel took of it is delivered, as ever."""
    h = harness(unsent_bytes=1 << 30, unsent_budget_bytes=300_000)
    peer = await h.open("raw/slow", receive_bytes=4096)
    outcomes, pending = deliver(h, *[(b"slow", BIG)] * 1000)
    taken = outcomes.count(Outcome.DELIVERED)
    assert outcomes == [Outcome.DELIVERED] * taken + [Outcome.PENDING] * (1000 - taken)
    assert 0 < taken < 1000
    await h.until(lambda: len(h.notes.settled) == len(pending))
    assert h.notes.settled == {token: Outcome.DROPPED for _, token in pending}
    assert h.notes.closes[0][4] == 4004
    peer.close()


async def test_broadcasts_of_a_turn_share_a_pass_and_a_send(harness: MakeHarness) -> None:
    h = harness()
    peers = {p: await h.open(f"{p}/{p}") for p in ("raw", "v1", "sse")}
    sends = h.row.get("sends")
    tokens = [h.engine.broadcast(b"%d" % i, b"all %d" % i, 1) for i in range(20)]
    await h.until(lambda: len(h.notes.broadcasts) == 20)
    assert h.notes.broadcasts == {token: {Outcome.DELIVERED: 3} for token in tokens}
    assert h.row.get("sends") - sends == 3
    for i in range(20):
        await peers["raw"].expect_frame(1, b"all %d" % i)
        await peers["v1"].expect_frame(1, b'{"id":"%d","data":"all %d"}' % (i, i))


async def test_a_broadcast_is_a_resumable_cursor(harness: MakeHarness) -> None:
    h = harness()
    peers = [await h.open(f"raw/{i}") for i in range(1100)]
    h.engine.broadcast(b"1", b"all", 1)
    h.engine.run()
    assert h.notes.broadcasts == {}, "128 sends a turn"
    await h.until(lambda: h.notes.broadcasts)
    assert list(h.notes.broadcasts.values()) == [{Outcome.DELIVERED: 1100}]
    for peer in peers:
        await peer.expect_frame(1, b"all")
        peer.close()


async def test_a_broadcast_counts_slow_consumers_when_they_are_settled(harness: MakeHarness) -> None:
    h = harness(unsent_bytes=10_000_000)
    slow, quick = await h.open("raw/slow", receive_bytes=4096), await h.open("raw/quick")
    await fill(h)
    token = h.engine.broadcast(b"1", b"all", 1)
    await quick.expect_frame(1, b"all")
    h.engine.run()
    assert h.notes.broadcasts == {}
    slow.reset()
    await h.until(lambda: h.notes.broadcasts)
    assert h.notes.broadcasts == {token: {Outcome.DELIVERED: 1, Outcome.DROPPED: 1}}


async def test_a_broadcast_to_nobody(harness: MakeHarness) -> None:
    h = harness()
    token = h.engine.broadcast(b"1", b"all", 1)
    await h.until(lambda: h.notes.broadcasts)
    assert h.notes.broadcasts == {token: {}}


async def test_lease_cursors_meet_every_open_connection_once_around(harness: MakeHarness) -> None:
    h = harness()
    peers = [await h.open(f"raw/{i}") for i in range(10)]
    seen = [client for _ in range(5) for _, client, _, _ in h.engine.renewals(2)]
    assert sorted(seen) == sorted(b"%d" % i for i in range(10))
    assert h.engine.dirty(100) == []
    assert h.engine.set_all_dirty() == 10
    assert h.engine.renewals(100) == []
    first = h.engine.dirty(4)
    assert len(first) == 4
    for handle, *_ in first:
        h.engine.set_dirty(handle, False)
    assert h.engine.dirty_leases == 6
    assert not {e[0] for e in h.engine.dirty(100)} & {e[0] for e in first}
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("how", ["clean", "reset", "close", "half a head", "half a frame", "replaced", "refused"])
async def test_nothing_is_left_of_connections_that_came_and_went(harness: MakeHarness, how: str) -> None:
    h = harness()
    for i in range(100):
        peer = await h.connect() if how in ("half a head", "refused") else await h.open(f"raw/{i}")
        if how == "half a head":
            await peer.send(b"GET / HT")
        elif how == "refused":
            await peer.send(b"x" * 2000)
            await peer.rest()
        elif how == "half a frame":
            await peer.send(b"\x01\xfe\x0f\xff1234" + b"x" * 100)
        elif how == "clean":
            await peer.send_frame(8, b"")
            await peer.rest()
        elif how == "close":
            h.engine.close_client(b"%d" % i, 0, 4005)
        elif how == "replaced":
            old = h.engine.find(b"%d" % i)
            other = await h.open(f"raw/{i}")
            h.engine.close(old, 4002)
            other.close()
        peer.reset() if how == "reset" else peer.close()
    await h.until(lambda: h.engine.connections == 0)
    assert h.row.get("allocated") == h.row.get("freed")
    h.engine.sweep(1)
    assert h.row.get("unsent_bytes") == 0
