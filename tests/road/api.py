"""The HTTP API as a sender and an operator see it, through httpx."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support import eventually

PATIENCE_S = 30.0  # for what must happen, on a busy machine; nothing that goes well waits for it
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.samples: Samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name with these labels; a name that is not there is an error."""
        assert any(known == name for known, _ in self.samples), f"no metric {name}"
        return sum(v for (known, has), v in self.samples.items() if known == name and has >= set(labels.items()))


class Api:
    def __init__(self, url: str) -> None:
        # One connection for as long as this lives, so that one worker answers: httpx's own default is 5 idle seconds.
        self.http = httpx.AsyncClient(
            base_url=url, trust_env=False, timeout=PATIENCE_S, limits=httpx.Limits(keepalive_expiry=None)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def push(self, to: Mapping[str, Any], **fields: Any) -> Any:
        """The answer's JSON: 202 queued, 200 direct; anything else is a failure."""
        response = await self.http.post("/v1/push", json={"to": to, **fields})
        assert response.status_code == (200 if fields.get("direct") else 202), response.text
        return response.json()

    async def direct(self, client_id: str, text: str, **fields: Any) -> str:
        """The outcome."""
        answer = await self.push({"client": client_id}, text=text, direct=True, **fields)
        [outcome] = answer["outcomes"]
        assert outcome["client"] == client_id
        return str(outcome["outcome"])

    async def batch(self, lines: Iterable[str]) -> tuple[int, list[dict[str, Any]]]:
        response = await self.http.post(
            "/v1/push",
            content="".join(f"{line}\n" for line in lines),
            headers={"Content-Type": "application/x-ndjson"},
        )
        return response.status_code, [json.loads(line) for line in response.text.splitlines()]

    async def get(self, path: str) -> Any:
        response = await self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def worker_of(self, client_id: str) -> int:
        """The slot of the worker that holds the client."""
        return int((await self.get(f"/v1/clients/{client_id}"))["worker"])

    async def holds(self, client_id: str) -> bool:
        """Whether some worker holds the client."""
        return (await self.http.get(f"/v1/clients/{client_id}")).status_code == 200

    async def metrics(self) -> Metrics:
        response = await self.http.get("/metrics")
        assert response.status_code == 200
        return Metrics(response.text)

    async def until_counted(self, name: str, value: float, **labels: str) -> Metrics:
        """The first scrape in which the sum has reached the value; it must not be past it."""

        async def reached() -> Metrics | None:
            metrics = await self.metrics()
            return metrics if metrics.total(name, **labels) >= value else None

        metrics = await eventually(reached, f"{name} {labels} is {value}")
        assert metrics is not None
        assert metrics.total(name, **labels) == value
        return metrics
