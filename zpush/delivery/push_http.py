"""Pushes through the HTTP API. Needs httpx; imported only for http:// and https:// URLs.

Rules. The API's answers become the same results and exceptions that a queue gives: whoever catches
QueueFull need not know which way a push went. Several pushes are one NDJSON request, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import msgspec

from zpush.config.units import is_loopback
from zpush.delivery.push import Prepared, Push, prepare
from zpush.errors import (
    ConfigError,
    MalformedMessage,
    QueueFull,
    QueueUnavailable,
    RegistryUnavailable,
    Unauthorized,
    Unavailable,
    ZpushError,
)
from zpush.protocol.message import Outcome, Target

TIMEOUT_S = 45.0  # beyond a wait for an ack: 30 s for a slow consumer, the rest for a client that is just reconnecting
CONNECT_TIMEOUT_S = 3.0
BATCH_LINES = 1000
BATCH_BYTES = 4 * 1024 * 1024
_AWAY = {"queue_full": QueueFull, "queue_unavailable": QueueUnavailable, "registry_unavailable": RegistryUnavailable}
_OUTCOMES = {outcome.label: outcome for outcome in Outcome}

Result = str | Outcome | dict[str, Outcome] | dict[Outcome, int]


class HttpSender:
    """url: the API's base, such as http://127.0.0.1:8081. api_key: "" where none is asked for."""

    singles = None  # there is no short way

    def __init__(self, url: str, api_key: str) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as e:
            raise ConfigError(f"the API's URL cannot be read: {e}") from None
        if not self._url.host:
            raise ConfigError("the API's URL names no host")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def start(self) -> None:
        """Connections are made when they are needed."""
        # No proxy of the environment leads to this very machine.
        proxies = not is_loopback(self._url.host)
        self._client = httpx.AsyncClient(base_url=self._url, headers=self._headers, trust_env=proxies)

    async def stop(self) -> None:
        await self._client.aclose()

    def prepare(self, push: Push) -> Prepared:
        return prepare(push)

    async def send(self, pushes: Sequence[Prepared]) -> list[Result | Exception]:
        if len(pushes) == 1:
            return [await self._send_one(pushes[0])]
        results: list[Result | Exception] = []
        for batch, body in _batches(pushes):
            results += await self._send_batch(batch, body)
        return results

    async def _send_one(self, push: Prepared) -> Result | Exception:
        response = await self._post(push.json(), "application/json", [push])
        if isinstance(response, Exception):
            return response
        return _result(push, _json(response.content), response.status_code)

    async def _send_batch(self, batch: Sequence[Prepared], body: bytes) -> list[Result | Exception]:
        response = await self._post(body, "application/x-ndjson", batch)
        if isinstance(response, Exception):
            return [response] * len(batch)
        lines = response.content.splitlines()
        if len(lines) != len(batch):  # refused as a whole
            return [_error(_json(response.content), response.status_code)] * len(batch)
        return [_result(push, _json(line), response.status_code) for push, line in zip(batch, lines, strict=True)]

    async def _post(self, body: bytes, content_type: str, pushes: Sequence[Prepared]) -> httpx.Response | Unavailable:
        headers = {"Content-Type": content_type}
        timeout = _timeout(max(push.wait_ack_s or 0.0 for push in pushes))
        try:
            return await self._client.post("/v1/push", content=body, headers=headers, timeout=timeout)
        except httpx.ConnectError as e:
            where = self._url.netloc.decode()
            return QueueUnavailable(f"the API at {where} cannot be reached ({e}): is `zpush serve` running?")
        except httpx.TransportError as e:
            return QueueUnavailable(f"the API at {self._url.netloc.decode()}: {e or type(e).__name__}")


def _timeout(ack_wait_s: float) -> httpx.Timeout:
    return httpx.Timeout(TIMEOUT_S + ack_wait_s, connect=CONNECT_TIMEOUT_S)


def _batches(pushes: Sequence[Prepared]) -> Iterator[tuple[list[Prepared], bytes]]:
    batch: list[Prepared] = []
    body = bytearray()
    for push in pushes:
        batch.append(push)
        body += push.json() + b"\n"
        if len(batch) >= BATCH_LINES or len(body) >= BATCH_BYTES:
            yield batch, bytes(body)
            batch, body = [], bytearray()
    if batch:
        yield batch, bytes(body)


def _json(text: bytes) -> dict[str, Any]:
    """{} for what is no JSON object: a proxy's error page."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _result(push: Prepared, answer: dict[str, Any], status: int) -> Result | Exception:
    if answer.get("queued") is True:
        return push.id
    if "counts" in answer:
        return {_OUTCOMES[label]: count for label, count in answer["counts"].items()}
    if "outcomes" not in answer:
        return _error(answer, status)
    outcomes = {row["client"]: _OUTCOMES[row["outcome"]] for row in answer["outcomes"] if "client" in row}
    return outcomes[push.keys[0]] if push.target is Target.CLIENT and push.one else outcomes


def _error(answer: dict[str, Any], status: int) -> ZpushError:
    error = answer.get("error", {})
    code, message = error.get("code", ""), error.get("message", f"the API answered {status}")
    if code in _AWAY:
        return _AWAY[code](message)
    if status in (401, 403) or code in ("unauthorized", "forbidden"):
        return Unauthorized(message)
    if status >= 500 or status == 429 or not error:
        return Unavailable(message)
    return MalformedMessage(message, error.get("field", ""))
