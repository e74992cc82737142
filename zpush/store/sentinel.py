"""One shard whose servers the Sentinels name.

Rules. All Sentinels are asked at once, and most of those that answer are believed: one that is cut off from the
others may still name the old primary. The primary is asked for anew at each connect, and every now and then while
the connection holds, since an old primary that is cut off with its clients says nothing. A server that calls itself
a replica is no primary, whoever names it (link.py). While no Sentinel answers, a connection that holds is used.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from zpush.errors import Unavailable
from zpush.store.endpoint import Address, Endpoint
from zpush.store.greeting import ASK_TIMEOUT_S, Greeting, ask
from zpush.store.replies import ReplyError
from zpush.store.standalone import Standalone
from zpush.store.url import Kind, Place

RECHECK_S = 10.0  # more or less; each takes a short connection to every Sentinel


class Sentinel(Standalone):
    def __init__(
        self, place: Place, greeting: Greeting, connected: Callable[[bool], None], *, read_replicas: bool
    ) -> None:
        super().__init__(place, greeting, connected, read_replicas=read_replicas)
        self._watch = asyncio.create_task(self._recheck(), name=f"store recheck {place.where}")

    async def stop(self) -> None:
        self._watch.cancel()
        await super().stop()

    async def find_primary(self) -> Endpoint:
        named = await self._ask("GET-MASTER-ADDR-BY-NAME", _read_primary)
        if not named:
            raise Unavailable(f"the Sentinels know no service {self._place.service!r}")
        [(address, _)] = Counter(named).most_common(1)
        return self._place.server.at(address)

    async def find_replica(self) -> Endpoint:
        """Any that is well in a Sentinel's eyes."""
        named = await self._ask("REPLICAS", _read_replicas)
        if not named:
            raise Unavailable(f"the Sentinels know no replica of {self._place.service!r} that is well")
        return self._place.server.at(random.choice(named))

    async def _ask(self, question: str, read: Callable[[Any], list[Address]]) -> list[Address]:
        """What is named by all that answer."""
        asked = self._place.asked
        answers = await asyncio.gather(*(self._ask_one(sentinel, question, read) for sentinel in asked))
        named = [answer for answer in answers if not isinstance(answer, Exception)]
        if not named:
            raise Unavailable(f"no Sentinel answers: {asked[0].where}: {answers[0]}")
        return [address for answer in named for address in answer]

    async def _ask_one(
        self, sentinel: Endpoint, question: str, read: Callable[[Any], list[Address]]
    ) -> list[Address] | Exception:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                [answer] = await ask(sentinel, Kind.SENTINEL, ("SENTINEL", question, self._place.service))
            return read(answer)
        except TimeoutError:
            return Unavailable(f"no answer within {ASK_TIMEOUT_S:g} s")
        except (Unavailable, OSError, ReplyError) as e:  # first: a certificate's error is a ValueError, too
            return e
        except (TypeError, ValueError, KeyError, AttributeError):
            return Unavailable("answers with something that cannot be read")

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S * random.uniform(0.5, 1.5))
            if self._primary.up:
                try:
                    found = await self.find_primary()
                except Unavailable:
                    continue
                self._primary.leave_unless_at(found)


def _read_primary(answer: Any) -> list[Address]:
    """[] where the service is not known."""
    if answer is None:
        return []
    host, port = answer
    return [(host.decode(), int(port))]


def _read_replicas(answer: Any) -> list[Address]:
    """Those that are well."""
    replicas = [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in answer]
    return [
        (replica[b"ip"].decode(), int(replica[b"port"]))
        for replica in replicas
        if replica[b"flags"] == b"slave" and replica[b"master-link-status"] == b"ok"
    ]
