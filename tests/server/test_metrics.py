"""The scoreboard as Prometheus reads it: parsed with prometheus-client's own parser."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zpush.errors import QueueUnavailable
from zpush.protocol.message import Outcome, Priority
from zpush.queue.base import Lag
from zpush.scoreboard import PROCESSOR, WORKER, Row, Scoreboard
from zpush.server import metrics
from zpush.server.metrics import Metrics

NAMES = (
    "zpush_connections",
    "zpush_handshakes_total",
    "zpush_closes_total",
    "zpush_messages_total",
    "zpush_published_total",
    "zpush_taken_total",
    "zpush_redelivered_total",
    "zpush_receipts_total",
    "zpush_api_responses_total",
    "zpush_delivery_seconds_bucket",
    "zpush_delivery_seconds_count",
    "zpush_delivery_seconds_sum",
    "zpush_unsent_bytes",
    "zpush_engine_memory_bytes",
    "zpush_registry_up",
    "zpush_queue_up",
    "zpush_worker_restarts_total",
    "zpush_processes",
)

Samples = dict[tuple[str, tuple[str, ...]], float]  # (name, label values by label name) → value


async def scrape(of: Metrics) -> Samples:
    text = (await of.render()).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard()


def claimed(board: Scoreboard, kind: int, slot: int) -> tuple[int, Row]:
    number = board.claim(kind, slot)
    return number, board.rows[number]


async def test_every_name_is_there_from_the_start(board: Scoreboard) -> None:
    names = {name for name, _ in await scrape(Metrics(board))}
    assert names.issuperset(NAMES)


async def test_rows_are_summed_and_the_dead_still_count(board: Scoreboard) -> None:
    first, a = claimed(board, WORKER, 0)
    _, b = claimed(board, WORKER, 1)
    for row, connections in ((a, 3), (b, 4)):
        row.set("connections_websocket", connections)
        row.add("messages_delivered_high", 10)
        row.add("closes_4002")
        row.set("unsent_bytes", 100)
    reader = Metrics(board)
    before = await scrape(reader)
    assert before["zpush_connections", ("websocket",)] == 7
    assert before["zpush_messages_total", ("delivered", "high")] == 20
    assert before["zpush_closes_total", ("4002",)] == 2
    assert before["zpush_unsent_bytes", ()] == 200
    board.retire(first)
    board.retired.add("restarts")
    after = await scrape(reader)
    assert after["zpush_connections", ("websocket",)] == 4
    assert after["zpush_messages_total", ("delivered", "high")] == 20
    assert after["zpush_worker_restarts_total", ()] == 1


async def test_the_delivery_histogram_is_cumulative(board: Scoreboard) -> None:
    _, row = claimed(board, PROCESSOR, 0)
    row.add("delivery_low_le_0.001", 5)
    row.add("delivery_low_le_0.5", 2)
    row.add("delivery_low_le_inf", 1)
    row.add("delivery_low_sum_us", 90_000_000)
    samples = await scrape(Metrics(board))

    def bucket(bound: str) -> float:
        return samples["zpush_delivery_seconds_bucket", (bound, "low")]

    assert [bucket(b) for b in ("0.001", "0.25", "0.5", "60.0", "+Inf")] == [5, 5, 7, 7, 8]
    assert samples["zpush_delivery_seconds_count", ("low",)] == 8
    assert samples["zpush_delivery_seconds_sum", ("low",)] == 90


async def test_up_means_every_process(board: Scoreboard) -> None:
    reader = Metrics(board)
    assert (await scrape(reader))["zpush_registry_up", ()] == 0  # nobody serves
    rows = [claimed(board, WORKER, 0)[1], claimed(board, PROCESSOR, 0)[1]]
    for row in rows:
        row.set("registry_up", 1)
        row.set("ready", 1)
    samples = await scrape(reader)
    assert samples["zpush_registry_up", ()] == 1
    assert samples["zpush_processes", ("worker", "1")] == samples["zpush_processes", ("processor", "1")] == 1
    rows[0].set("registry_up", 0)
    assert (await scrape(reader))["zpush_registry_up", ()] == 0


async def test_counted_outcomes_are_all_shown(board: Scoreboard) -> None:
    samples = await scrape(Metrics(board))
    for outcome in Outcome:
        shown = ("zpush_messages_total", (outcome.label, "normal")) in samples
        assert shown == (outcome not in (Outcome.PENDING, Outcome.NOT_HERE))


async def test_lag_is_asked_once_however_many_scrape(board: Scoreboard) -> None:
    asked = 0

    async def lag() -> Mapping[Priority, Lag]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return {Priority.HIGH: Lag(12, 1.5)}

    reader = Metrics(board, lag)
    for samples in await asyncio.gather(*(scrape(reader) for _ in range(5))):
        assert samples["zpush_queue_lag_messages", ("high",)] == 12
        assert samples["zpush_queue_age_seconds", ("high",)] == 1.5
    assert asked == 1


async def test_lag_is_missing_while_the_queue_is_away_or_hangs(
    board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> Mapping[Priority, Lag]:
        raise QueueUnavailable("away")

    async def hangs() -> Mapping[Priority, Lag]:
        await asyncio.Event().wait()
        return {}

    async def known() -> Mapping[Priority, Lag]:
        return {Priority.HIGH: Lag(12, 1.5)}

    gauges = {"zpush_queue_lag_messages", "zpush_queue_age_seconds"}
    monkeypatch.setattr(metrics, "LAG_TIMEOUT_S", 0.05)
    monkeypatch.setattr(metrics, "LAG_CACHE_S", 0.0)
    for trouble in (away, hangs):
        answers = iter((known, trouble))
        reader = Metrics(board, lambda answers=answers: next(answers)())  # type: ignore[misc]
        assert gauges <= {name for name, _ in await scrape(reader)}
        samples = await scrape(reader)
        assert not gauges & {name for name, _ in samples}, "what it was before says nothing of now"
        assert ("zpush_registry_up", ()) in samples
