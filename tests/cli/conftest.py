"""Commands that look into the queue, run on each of its back ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.queue.backends import Backend, StreamsBackend
from tests.queue.kafka_backend import KafkaBackend
from zpush.cli.main import main

Ran = tuple[int, str, str]  # exit code, standard output, standard error
RunOn = Callable[..., Awaitable[Ran]]


def options_of(backend: Backend) -> tuple[str, ...]:
    """For --set."""
    url: str = backend.server.url  # type: ignore[attr-defined] # every server has one
    layout = backend.layout
    return f"queue.url={url}", f"queue.prefix={layout.prefix}", f"queue.partitions={layout.partitions}"


@pytest.fixture(params=["streams", "kafka"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "streams":
        made: Backend = StreamsBackend(request.getfixturevalue("valkey"))
    else:
        kafka = request.getfixturevalue("kafka")
        made = KafkaBackend(kafka, kafka.prefix)
    yield made
    await made.close()


@pytest.fixture
def run_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunOn:
    """await run_on(backend, "dead", "list", …): the command with the back end's options, in this process."""
    monkeypatch.delenv("ZPUSH_CONFIG", raising=False)

    async def run(backend: Backend, *arguments: str, sets: tuple[str, ...] = ()) -> Ran:
        options = [part for each in (*options_of(backend), *sets) for part in ("--set", each)]
        code = await asyncio.to_thread(main, [*arguments, *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
