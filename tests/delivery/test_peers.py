"""Calls between workers over real sockets: batches and their two answers, broadcasts, closes, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from tests.delivery.raw import ended, greet, owner, read_frame, welcome
from tests.delivery.world import Answers, Box, caller, entries
from tests.support import eventually
from zpush.delivery.base import Entry
from zpush.delivery.broadcasts import Broadcasts
from zpush.delivery.peer_calls import Calls, DeliverCall
from zpush.delivery.peer_client import WINDOW
from zpush.delivery.peer_frames import (
    MAX_FRAME_BYTES,
    Deliver,
    FrameReader,
    Outcomes,
    SettledLater,
    decode_answer,
    decode_request,
    encode,
)
from zpush.delivery.peer_link import TURN_MESSAGES
from zpush.delivery.peers import Peers
from zpush.errors import PeerUnreachable
from zpush.protocol.message import Kind, Message, Outcome, Priority

DELIVERED, PENDING, NOT_HERE = int(Outcome.DELIVERED), int(Outcome.PENDING), int(Outcome.NOT_HERE)


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    peers = caller()
    yield peers
    await peers.stop()


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    box = await Box("owner", "c1", "c2", "slow").listen()
    yield box
    await box.die()


# ---- deliver


async def test_a_batch_gets_one_outcome_an_entry(box: Box, peers: Peers) -> None:
    box.table.answers["c2"] = Outcome.RATE_LIMITED
    answers = Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("c1", "m1"), ("c2", "m2"), ("gone", "m3")), answers)
    assert await answers.first == [DELIVERED, Outcome.RATE_LIMITED, NOT_HERE]
    assert box.table.got == [("c1", "m1")]


async def test_an_entry_arrives_as_it_was(box: Box, peers: Peers) -> None:
    seen: list[Entry] = []
    box.table.deliver = lambda entries, settled: seen.extend(entries) or bytes([DELIVERED] * len(entries))  # type: ignore
    sent = Entry("ключ 🔑", "m" * 255, bytes(range(256)) * 40_000, Kind.BINARY, 1_900_000_000_000)  # 10 MB
    answers = Answers()
    peers.deliver(box.node, Priority.LOW, [sent], answers)
    assert await answers.first == [DELIVERED]
    assert seen == [sent]


async def test_a_slow_consumer_holds_up_nobody_else(box: Box, peers: Peers) -> None:
    """PENDING is told at once and settled later; meanwhile the next batch goes through."""
    box.table.answers["slow"] = Outcome.PENDING
    first, second = Answers(), Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("c1", "m1"), ("slow", "m2"), ("slow", "m3")), first)
    assert await first.first == [DELIVERED, PENDING, PENDING]
    peers.deliver(box.node, Priority.NORMAL, entries(("c2", "m4")), second)
    assert await second.first == [DELIVERED]
    box.table.settle(Outcome.DROPPED)
    await eventually(lambda: len(first.later) == 2)
    assert first.later == [(1, Outcome.DROPPED), (2, Outcome.DROPPED)]


async def test_more_than_a_window_of_pending_batches(box: Box, peers: Peers) -> None:
    box.table.answers["slow"] = Outcome.PENDING
    batches = [Answers() for _ in range(WINDOW + 10)]
    for answers in batches:
        peers.deliver(box.node, Priority.NORMAL, entries(("slow", "m")), answers)
    assert [await answers.first for answers in batches] == [[PENDING]] * len(batches)
    box.table.settle()
    await asyncio.gather(*(answers.more.wait() for answers in batches))
    assert all(answers.later == [(0, DELIVERED)] for answers in batches)


async def test_the_time_for_an_ack_comes_on_top_of_that_in_a_write_buffer() -> None:
    """The owner begins to wait for the ack when the message is out."""
    calls = Calls(settle_timeout_s=35.0, answer_timeout_s=5.0)
    waits = Entry("c2", "m2", b"hello", 1, ack_wait_ms=30_000)
    calls.sent(1, DeliverCall([*entries(("c1", "m1")), waits], Answers()), 0.0)
    calls.answer(Outcomes(1, bytes([PENDING, PENDING])), 1.0)
    assert not calls.overdue(65.9)
    assert calls.overdue(66.0)


async def test_who_waits_for_an_ack_is_not_given_up_with_those_that_wait_for_a_write_buffer(box: Box) -> None:
    peers = caller(settle_timeout_s=0.05)
    box.table.answers["slow"] = Outcome.PENDING
    acked, slow = Answers(), Answers()
    peers.deliver(box.node, Priority.HIGH, [Entry("slow", "m1", b"hello", 1, ack_wait_ms=30_000)], acked)
    assert await acked.first == [PENDING]
    peers.deliver(box.node, Priority.LOW, entries(("slow", "m2")), slow)
    await slow.error  # the other connection was looked at before it
    assert not acked.error.done()
    box.table.settle(Outcome.ACKED)
    await acked.more.wait()
    assert acked.later == [(0, Outcome.ACKED)]
    await peers.stop()


async def test_requests_of_a_turn_leave_in_one_write(peers: Peers) -> None:
    reads: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        while data := await reader.read(1_000_000):
            await reads.put(data)
            for number in range(1, 11):
                writer.write(encode(Outcomes(number, bytes([DELIVERED]))))

    async with owner(serve) as node:
        batches = [Answers() for _ in range(10)]
        for answers in batches:
            peers.deliver(node, Priority.NORMAL, entries(("c1", "m1")), answers)
        await asyncio.gather(*(answers.first for answers in batches))
        reader = FrameReader(MAX_FRAME_BYTES)
        reader.feed(reads.get_nowait())
        assert len([body for body in iter(reader.next, None)]) == 10


async def test_a_full_window_waits_and_answers_may_come_in_any_order(peers: Peers) -> None:
    """64 batches without an answer are the most an owner is sent; the last is answered first here."""
    frames: asyncio.Queue[int] = asyncio.Queue()
    answer_now: asyncio.Queue[int] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)

        async def answer() -> None:
            while True:
                writer.write(encode(Outcomes(await answer_now.get(), bytes([DELIVERED]))))

        answering = asyncio.create_task(answer())
        try:
            while True:
                frames.put_nowait(decode_request(await read_frame(reader)).request)
        finally:
            answering.cancel()

    async with owner(serve) as node:
        batches = [Answers() for _ in range(WINDOW + 1)]
        for answers in batches:
            peers.deliver(node, Priority.NORMAL, entries(("c1", "m1")), answers)
        assert [await frames.get() for _ in range(WINDOW)] == list(range(1, WINDOW + 1))
        assert frames.empty()
        answer_now.put_nowait(WINDOW)
        assert await batches[WINDOW - 1].first == [DELIVERED]
        assert not batches[0].first.done()
        assert await frames.get() == WINDOW + 1


async def test_each_priority_has_a_connection_of_its_own(box: Box, peers: Peers) -> None:
    for priority in Priority:
        answers = Answers()
        peers.deliver(box.node, priority, entries(("c1", priority.label)), answers)
        assert await answers.first == [DELIVERED]
    assert box.server.connections == 3


async def test_low_does_not_stand_in_front_of_high(peers: Peers) -> None:
    """An owner that does not read low's connection at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await welcome(reader, writer)
        if hello.priority is Priority.LOW:
            await asyncio.get_running_loop().create_future()
        body = await read_frame(reader)
        writer.write(encode(Outcomes(decode_request(body).request, bytes([DELIVERED]))))

    async with owner(serve) as node:
        low, high = Answers(), Answers()
        for _ in range(20):
            peers.deliver(node, Priority.LOW, [Entry("c1", "m", bytes(1_000_000), 2)], low)
        peers.deliver(node, Priority.HIGH, entries(("c1", "m1")), high)
        assert await high.first == [DELIVERED]
        assert not low.first.done()


async def test_an_owner_works_off_a_bounded_number_of_messages_a_turn(box: Box) -> None:
    """Ten batches arrive in one piece; between them others have their turn."""
    turns: list[int] = []
    loop = asyncio.get_running_loop()
    reader, writer = await greet(box)

    def turn() -> None:
        turns.append(sum(map(len, box.table.calls)))
        if turns[-1] < 10 * 300:
            loop.call_soon(turn)

    writer.write(b"".join(encode(Deliver(n, entries(*[("c1", "m")] * 300))) for n in range(10)))
    turn()
    for number in range(10):
        answer = decode_answer(await read_frame(reader))
        assert answer == Outcomes(number, bytes([DELIVERED] * 300))
    assert max(after - before for before, after in pairwise(turns)) <= TURN_MESSAGES + 300
    writer.close()


async def test_a_batch_that_no_peer_would_take_is_refused_here(box: Box, peers: Peers) -> None:
    with pytest.raises(ValueError, match="at most 16777216"):
        peers.deliver(box.node, Priority.LOW, [Entry("c1", "m", bytes(MAX_FRAME_BYTES), 2)], Answers())


# ---- broadcast and close


async def test_broadcast_counts_and_reaches_nobody_twice(box: Box, peers: Peers) -> None:
    message = Message("m1", "", b"to all", Kind.JSON)
    assert await peers.broadcast(box.node, message) == {DELIVERED: 3}
    assert await peers.broadcast(box.node, message) == {}
    assert box.table.broadcasts == [("m1", b"to all", Kind.JSON)]


async def test_a_broadcast_sent_again_while_under_way_gets_its_counts(box: Box, peers: Peers) -> None:
    box.table.counting = asyncio.get_running_loop().create_future()
    message = Message("m1", "", b"to all")
    first, second = peers.broadcast(box.node, message), peers.broadcast(box.node, message)
    answers = Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("c1", "m")), answers)
    await answers.first  # both broadcasts have arrived before it
    assert len(box.table.broadcasts) == 1 and not first.done()
    box.table.counting.set_result({DELIVERED: 2, int(Outcome.DROPPED): 1})
    assert await first == await second == {DELIVERED: 2, Outcome.DROPPED: 1}


async def test_the_memory_of_broadcasts_is_bounded(box: Box) -> None:
    broadcasts = Broadcasts(box.table, remembered=2)
    for id in ("a", "b", "c", "b", "a"):
        await broadcasts.send(id, b"", Kind.TEXT)
    assert [id for id, _, _ in box.table.broadcasts] == ["a", "b", "c", "a"]


async def test_close_names_client_epoch_and_code(box: Box, peers: Peers) -> None:
    assert await peers.close(box.node, "c1", 17, 4002) is True
    assert await peers.close(box.node, "gone", 0, 4005) is False
    assert box.table.closed == [("c1", 17, 4002), ("gone", 0, 4005)]


# ---- ends


async def test_a_new_connection_of_a_caller_ends_its_old_one(box: Box) -> None:
    """So that nothing given up on arrives after what was sent again."""
    old, old_writer = await greet(box, "same", Priority.LOW)
    other, other_writer = await greet(box, "same", Priority.HIGH)
    new, new_writer = await greet(box, "same", Priority.LOW)
    assert await ended(old)
    for reader, writer in ((other, other_writer), (new, new_writer)):
        writer.write(encode(Deliver(1, entries(("c1", "m1")))))
        assert decode_answer(await read_frame(reader)) == Outcomes(1, bytes([DELIVERED]))
        writer.close()
    old_writer.close()


async def test_a_lost_connection_fails_its_calls_and_the_next_call_makes_a_new_one(box: Box, peers: Peers) -> None:
    box.table.answers["slow"] = Outcome.PENDING
    box.table.counting = asyncio.get_running_loop().create_future()
    answers = Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("slow", "m1")), answers)
    counts = peers.broadcast(box.node, Message("b", "", b""))
    assert await answers.first == [PENDING]
    box.server.close()
    assert not (await answers.error).refused
    with pytest.raises(PeerUnreachable):
        await counts
    box.table.settle()  # for nobody
    again = Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("c1", "m2")), again)
    assert await again.first == [DELIVERED]


async def test_answers_that_came_before_the_end_count(peers: Peers) -> None:
    """More than are worked off in a turn, and the connection's end right behind them."""
    number = 3 * TURN_MESSAGES

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await read_frame(reader)
        settled = b"".join(encode(SettledLater(1, [(index, DELIVERED)])) for index in range(number))
        writer.write(encode(Outcomes(1, bytes(number))) + settled)
        await writer.drain()

    async with owner(serve) as node:
        answers = Answers()
        peers.deliver(node, Priority.NORMAL, entries(*[("c1", "m")] * number), answers)
        await eventually(lambda: len(answers.later) == number)
        assert not answers.error.done()


async def test_forget_fails_the_calls_of_a_dead_node_at_once(box: Box, peers: Peers) -> None:
    box.table.answers["slow"] = Outcome.PENDING
    open_one, connecting = Answers(), Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("slow", "m1")), open_one)
    await open_one.first
    peers.deliver(box.node, Priority.LOW, entries(("c1", "m2")), connecting)
    peers.forget(box.node.id)
    assert open_one.error.done() and connecting.error.done()
    await eventually(lambda: box.server.connections == 0)


async def test_stop_fails_what_is_under_way() -> None:
    box = await Box("owner", "slow").listen()
    peers = caller()
    box.table.counting = asyncio.get_running_loop().create_future()
    counts = peers.broadcast(box.node, Message("b", "", b""))
    await eventually(lambda: box.table.broadcasts)
    await peers.stop()
    with pytest.raises(PeerUnreachable):
        await counts
    await eventually(lambda: box.server.connections == 0)
    await box.die()


async def test_an_owner_that_does_not_read_is_not_written_to_without_end(peers: Peers) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await asyncio.get_running_loop().create_future()

    async with owner(serve) as node:
        batches = [Answers() for _ in range(60)]
        opened = peers.close(node, "c1", 0, 4005)
        for answers in batches:
            peers.deliver(node, Priority.HIGH, [Entry("c1", "m", bytes(1_000_000), 2)], answers)
            await asyncio.sleep(0)
        channel = peers._channels[("owner", Priority.HIGH)]
        await eventually(lambda: channel._calls.window > 1)
        link = channel._link
        assert link is not None
        await eventually(lambda: not link.writable)
        assert link._transport.get_write_buffer_size() < 16_000_000 and len(channel._waiting) > 20
        opened.cancel()
