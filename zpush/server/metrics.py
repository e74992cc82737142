"""`GET /metrics`: the scoreboard in Prometheus's text format, for the whole box whichever worker answers.

Rules. Nothing is counted here: a scrape adds up the rows of all processes, dead ones' counts included,
so that a counter never goes back while the master lives. The queue's lag is asked of the queue itself, at
most once in LAG_CACHE_S however many scrape; while it is away its gauges are missing rather than wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from zpush.errors import Unavailable
from zpush.protocol.message import Priority
from zpush.queue.base import Lag
from zpush.scoreboard import (
    API_STATUSES,
    CLOSE_CODES,
    COLUMNS,
    COUNTED_OUTCOMES,
    DELIVERY_BUCKETS_S,
    HANDSHAKE_RESULTS,
    INDEX,
    PRESENCE_EVENTS,
    PRESENCE_RESULTS,
    PROCESSOR,
    RECEIPT_RESULTS,
    WORKER,
    Scoreboard,
)

LAG_CACHE_S = 3.0
LAG_TIMEOUT_S = 2.0
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

LagGetter = Callable[[], Awaitable[Mapping[Priority, Lag]]]

_GAUGES = (  # name, help, column
    ("zpush_unsent_bytes", "Bytes that wait for clients to read.", "unsent_bytes"),
    ("zpush_engine_memory_bytes", "User memory of the engines' connections and buffers.", "memory_bytes"),
    ("zpush_dirty_leases", "Connections whose lease has yet to be written.", "dirty_leases"),
    ("zpush_in_flight_messages", "Taken from the queue, outcome not yet known.", "in_flight"),
)
_COUNTERS = (
    ("zpush_worker_restarts", "Processes that died and were replaced.", "restarts"),
    ("zpush_accepted_connections", "Client sockets accepted.", "accepted"),
    ("zpush_engine_allocations", "Blocks of memory taken for clients' bytes.", "allocated"),
    ("zpush_engine_frees", "Blocks given back; while nothing is partial or unsent, as many.", "freed"),
    ("zpush_received_bytes", "Bytes from clients.", "received_bytes"),
    ("zpush_sent_bytes", "Bytes to clients, as taken by the kernel.", "sent_bytes"),
    ("zpush_client_messages", "Messages from clients.", "messages_received"),
    ("zpush_pings_sent", "Keepalive pings and comments.", "pings_sent"),
    ("zpush_go_aways_sent", "Clients asked to reconnect.", "go_aways_sent"),
    ("zpush_inbound_limited", "Connections closed because the client sent too much.", "inbound_limited"),
    ("zpush_fragments_limited", "Connections closed because a message came in too many frames.", "fragments_limited"),
    ("zpush_outbound_limited", "Messages not sent because the client had its share.", "outbound_limited"),
)
_BY_PRIORITY = (
    ("zpush_published", "Messages that the API put in the queue.", "published"),
    ("zpush_taken", "Messages by client, first time: from the queue or pushed directly.", "taken"),
    ("zpush_redelivered", "Messages by client, taken from the queue again.", "redelivered"),
    ("zpush_dead", "Records that could not be read.", "dead"),
)


class Metrics:
    """lag: asks the queue; None where this server has none."""

    def __init__(self, scoreboard: Scoreboard, lag: LagGetter | None = None) -> None:
        self._lag_of_queue = lag
        self._lag: Mapping[Priority, Lag] = {}
        self._lag_from_s = float("-inf")
        self._asking = asyncio.Lock()
        self._collector = _BoardCollector(scoreboard)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._collector)

    async def render(self) -> bytes:
        """The text of one scrape."""
        await self._refresh_lag()
        self._collector.lag = self._lag
        return generate_latest(self._registry)

    async def _refresh_lag(self) -> None:
        if self._lag_of_queue is None:
            return
        async with self._asking:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._lag_from_s < LAG_CACHE_S:
                return
            try:
                async with asyncio.timeout(LAG_TIMEOUT_S):
                    self._lag = await self._lag_of_queue()
            except (Unavailable, TimeoutError):
                self._lag = {}
            self._lag_from_s = now_s


class _BoardCollector(Collector):
    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self.lag: Mapping[Priority, Lag] = {}

    def collect(self) -> Iterator[Metric]:
        rows = self._scoreboard.snapshot()
        total = dict(zip(COLUMNS, map(sum, zip(*rows, strict=True)), strict=True))
        yield from _processes(rows[1:])
        yield from _clients(total)
        yield from _messages(total)
        yield _labelled(
            CounterMetricFamily("zpush_api_responses", "Answers of the API, by HTTP status.", labels=["status"]),
            total,
            ((str(s), f"api_responses_{s}") for s in (*API_STATUSES, "other")),
        )
        yield _labelled(
            CounterMetricFamily("zpush_receipts", "Receipts for senders, where they are on.", labels=["result"]),
            total,
            ((r, f"receipts_{r}") for r in RECEIPT_RESULTS),
        )
        yield _presence(total)
        yield _delivery(total)
        yield _labelled(
            CounterMetricFamily("zpush_acks", "Acks from clients, by whether a sender waited.", labels=["awaited"]),
            total,
            (("yes", "acks_awaited"), ("no", "acks_unawaited")),
        )
        yield _acks(total)
        for name, text, column in _GAUGES:
            yield GaugeMetricFamily(name, text, value=total[column])
        for name, text, column in _COUNTERS:
            yield CounterMetricFamily(name, text, value=total[column])
        yield from _queue(self.lag)


def _processes(live: list[list[int]]) -> Iterator[Metric]:
    processes = GaugeMetricFamily("zpush_processes", "Processes of this box.", labels=["kind", "ready"])
    for kind, number in (("worker", WORKER), ("processor", PROCESSOR)):
        for ready in (0, 1):
            alike = [row for row in live if row[INDEX["kind"]] == number and row[INDEX["ready"]] == ready]
            processes.add_metric([kind, str(ready)], len(alike))
    yield processes
    for name, text, column in (
        ("zpush_registry_up", "1: every process of this box reaches the registry.", "registry_up"),
        ("zpush_queue_up", "1: every process of this box reaches the queue.", "queue_up"),
    ):
        yield GaugeMetricFamily(name, text, value=min((row[INDEX[column]] for row in live), default=0))


def _clients(total: Mapping[str, int]) -> Iterator[Metric]:
    yield _labelled(
        GaugeMetricFamily("zpush_connections", "Open client connections.", labels=["transport"]),
        total,
        ((t, f"connections_{t}") for t in ("websocket", "sse", "unknown")),
    )
    yield _labelled(
        CounterMetricFamily("zpush_handshakes", "Requests on the client port, by how they ended.", labels=["result"]),
        total,
        ((r, f"handshakes_{r}") for r in HANDSHAKE_RESULTS),
    )
    yield _labelled(
        CounterMetricFamily("zpush_closes", "Client connections that ended, by close code.", labels=["code"]),
        total,
        ((str(c), f"closes_{c}") for c in (*CLOSE_CODES, "other")),
    )


def _messages(total: Mapping[str, int]) -> Iterator[Metric]:
    messages = CounterMetricFamily("zpush_messages", "Messages by client and outcome.", labels=["outcome", "priority"])
    for outcome in COUNTED_OUTCOMES:
        for priority in Priority:
            messages.add_metric([outcome, priority.label], total[f"messages_{outcome}_{priority.label}"])
    yield messages
    for name, text, column in _BY_PRIORITY:
        yield _labelled(
            CounterMetricFamily(name, text, labels=["priority"]),
            total,
            ((p.label, f"{column}_{p.label}") for p in Priority),
        )


def _presence(total: Mapping[str, int]) -> Metric:
    events = CounterMetricFamily(
        "zpush_presence_events", "Clients that came and went, where that is told.", labels=["event", "result"]
    )
    for event in PRESENCE_EVENTS:
        for result in PRESENCE_RESULTS:
            events.add_metric([event, result], total[f"presence_{event}_{result}"])
    return events


def _delivery(total: Mapping[str, int]) -> Metric:
    histogram = HistogramMetricFamily(
        "zpush_delivery_seconds",
        "From the queue to the socket; messages to all are not among them.",
        labels=["priority"],
    )
    for priority in Priority:
        column = f"delivery_{priority.label}"
        histogram.add_metric([priority.label], _buckets(total, column), sum_value=total[f"{column}_sum_us"] / 1e6)
    return histogram


def _acks(total: Mapping[str, int]) -> Metric:
    return HistogramMetricFamily(
        "zpush_ack_seconds",
        "From the socket to the client's ack, where a sender waited for it.",
        buckets=_buckets(total, "ack"),
        sum_value=total["ack_sum_us"] / 1e6,
    )


def _buckets(total: Mapping[str, int], column: str) -> list[tuple[str, float]]:
    """The columns hold what fell into each bucket alone; Prometheus wants what lies below each bound."""
    bounds = [*map(str, DELIVERY_BUCKETS_S), "inf"]
    below = accumulate(total[f"{column}_le_{bound}"] for bound in bounds)
    return [("+Inf" if bound == "inf" else bound, count) for bound, count in zip(bounds, below, strict=True)]


def _queue(lag: Mapping[Priority, Lag]) -> Iterator[Metric]:
    messages = GaugeMetricFamily("zpush_queue_lag_messages", "Messages not yet finished.", labels=["priority"])
    age = GaugeMetricFamily("zpush_queue_age_seconds", "Age of the oldest of them.", labels=["priority"])
    for priority, each in lag.items():
        messages.add_metric([priority.label], each.messages)
        age.add_metric([priority.label], each.age_s)
    yield messages
    yield age


def _labelled(
    family: GaugeMetricFamily | CounterMetricFamily, total: Mapping[str, int], columns: Iterable[tuple[str, str]]
) -> Metric:
    """columns: (label, column) each."""
    for label, column in columns:
        family.add_metric([label], total[column])
    return family
