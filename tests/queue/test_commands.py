"""What the queue on Streams asks of a server is what docs/queue.md says: whoever may do just that will do."""

from __future__ import annotations

import contextlib
import re
from types import SimpleNamespace

from tests.queue.backends import StreamsBackend, message, take_all
from tests.queue.test_dead_letters import BAD, bury
from tests.queue.test_receipts import Desk, receipt
from tests.support import ROOT, Valkey, eventually
from zpush.protocol.message import Priority
from zpush.queue.open import open_dead_letters

USER = "zpush-queue"


def documented() -> list[str]:
    page = (ROOT / "docs/queue.md").read_text()
    [rules] = re.findall(rf"^ +ACL SETUSER {USER} (.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    return [">pw" if rule == ">PASSWORD" else rule for rule in rules.split()]


async def allowed(valkey: Valkey, streams: StreamsBackend, rules: list[str]) -> None:
    """From now on the back end is that user; what looks inside is not."""
    await streams.redis.execute_command("ACL", "SETUSER", USER, *rules)
    streams.valkey = streams.server = SimpleNamespace(url=f"unix://{USER}:pw@{valkey.socket_path}")  # type: ignore


async def test_the_documented_rights_are_what_is_needed(valkey: Valkey, streams: StreamsBackend) -> None:
    await allowed(valkey, streams, documented())
    await everything(streams)
    assert await streams.redis.execute_command("ACL", "LOG") == [], "refused"
    used = {name.removeprefix("cmdstat_") for name in await streams.redis.info("commandstats")}
    assert {rule[1:] for rule in documented() if rule.startswith("+")} <= used, "asked of the user and never used"


async def everything(streams: StreamsBackend) -> None:
    """A reader comes and goes, a letter is dead and is replayed, a receipt is written and read, the server forgets."""
    producer = await streams.producer()
    await bury(streams, BAD)
    first = await streams.consumer()
    for number in range(40):
        assert await producer.publish([message(f"c{number}")]) == [None]
    await take_all([first], 40)
    second = await streams.consumer()
    await eventually(lambda: streams.partitions_of(second), "some are handed over", 60.0)
    assert await producer.publish([message(f"c{number}") for number in range(40)]) == [None] * 40
    await take_all([first, second], 40)
    await eventually(streams.empty, "all is finished", 60.0)
    await streams.redis.script_flush()
    assert (await producer.lag())[Priority.NORMAL].messages == 0
    await producer.publish([message(f"c{number}") for number in range(40)])
    await eventually(lambda: streams.partitions_ahead(second), "something is read ahead", 60.0)
    await streams.stop(second)

    letters = open_dead_letters(streams.queue(), streams.server.url)
    await letters.start()
    assert await letters.count() == 1
    async for page in letters.read():
        await letters.replay(page)
    await letters.stop()
    async with contextlib.AsyncExitStack() as stack:
        desk = Desk(streams, stack)
        (await desk.writer()).write(receipt(), desk.done.append)
        await eventually(lambda: desk.done == [True], "the receipt is written", 60.0)
        async for found in (await desk.reader()).read("m1", 0, True):
            assert found.client == "c1"
            break
