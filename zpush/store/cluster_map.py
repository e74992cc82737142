"""The map of a cluster: its shards, and which of them owns each slot.

Rules. The cluster draws it (CLUSTER SLOTS); it is read again when it proves wrong: a connection is lost, a command was
redirected, a node calls the cluster down; and now and then, for the replicas. Some nodes are asked, and the one is
believed that calls the cluster well and knows of its latest change: another may have been cut off. A new shard gets its
slots once its connection was tried: until then the old owner redirects.

A primary that owns nothing any more was replaced, and writes may be lost with it: `connected(True)`. (Or its last
slot was moved away, which is taken for the same.) A slot that moves between two primaries takes its keys along.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Sequence

from zpush.errors import Unavailable
from zpush.log import event
from zpush.store.endpoint import Address, Endpoint
from zpush.store.greeting import ASK_TIMEOUT_S, Greeting, ask
from zpush.store.link import Link
from zpush.store.pipeline import Pipeline
from zpush.store.replies import ReplyError
from zpush.store.shard import Shard
from zpush.store.slots import SLOTS, Owner, View, most_credible, read_view, slot_of
from zpush.store.url import Kind, Place
from zpush.tasks import Tasks

ASKED = 3  # nodes, at random
GAP_S = 0.1  # between two looks, at least
SOON_S = 0.5  # until the next look while something is wrong
LATE_S = 60.0
RETIRE_S = 5.0  # a replaced primary has this long to answer what it was asked
QUESTIONS = (("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"))
DOWN = "CLUSTERDOWN the cluster calls itself down"
log = logging.getLogger("zpush.store")


class ClusterMap:
    """by_slot: the owner of each slot, None where there is none. nobody: takes the commands for those, and refuses.

    tags: a hash tag for each owner, whose slot it has. All who see the same map name the same ones.
    """

    def __init__(
        self, place: Place, greeting: Greeting, connected: Callable[[bool], None], read_replicas: bool
    ) -> None:
        self.by_slot: list[Shard | None] = [None] * SLOTS
        self.tags: Sequence[str] = ()
        self.nobody = Pipeline(place.where, greeting.reply_timeout_s)
        self.first_look = asyncio.Event()  # is over
        self._place = place
        self._greeting = greeting
        self._connected = connected
        self._read_replicas = read_replicas
        self._shards: dict[Address, Shard] = {}  # all there are connections to
        self._replicas: dict[Address, tuple[Address, ...]] = {}  # of each primary
        self._owners: list[Shard] = []
        self._vacant = SLOTS
        self._trouble = "has not answered yet"  # "" while the cluster calls itself well
        self._wrong = asyncio.Event()
        self._tasks = Tasks(log)
        self._tasks.spawn(self._keep())

    @property
    def up(self) -> bool:
        return not self._trouble and any(shard.primary.up for shard in self._owners)

    @property
    def reason(self) -> str:
        if self._trouble:
            return self._trouble
        away = [shard.primary for shard in self._owners if not shard.primary.up]
        if away:
            return f"{len(away)} of {len(self._owners)} shards: {away[0].where}: {away[0].reason}"
        return f"{self._vacant} slots are owned by no node" if self._vacant else ""

    async def stop(self) -> None:
        await self._tasks.cancel()
        await asyncio.gather(*(shard.stop() for shard in self._shards.values()))

    def shard_at(self, address: Address) -> Shard:
        """With its connection begun, if it is new."""
        shard = self._shards.get(address)
        if shard is None:
            shard = self._shards[address] = self._open(address)
        return shard

    def moved(self, slot: int, shard: Shard) -> None:
        """A node said so. The rest of the map may be as old."""
        if shard.primary.up:
            self.by_slot[slot] = shard
        self.look_again()

    def look_again(self) -> None:
        self._wrong.set()

    def _open(self, address: Address) -> Shard:
        endpoint = self._place.server.at(address)

        async def primary() -> Endpoint:
            return endpoint

        async def replica() -> Endpoint:
            found = self._replicas.get(address)
            if not found:
                raise Unavailable("has no replica")
            return self._place.server.at(random.choice(found))

        link = Link(primary, endpoint.where, self._greeting, connected=self._connected, lost=self.look_again)
        reader = Link(replica, endpoint.where, self._greeting, replica=True) if self._read_replicas else None
        return Shard(link, reader, address[0])

    # Looking

    async def _keep(self) -> None:
        while True:
            self._wrong.clear()
            await self._look()
            self.first_look.set()
            await asyncio.sleep(GAP_S * random.uniform(0.5, 1.5))
            try:
                async with asyncio.timeout((SOON_S if self.reason else LATE_S) * random.uniform(0.5, 1.5)):
                    await self._wrong.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        before = self._trouble
        try:
            view = await self._ask_around()
        except Unavailable as e:
            if not self._owners:  # else what is known may still be right
                self._trouble = str(e)
        else:
            await self._adopt(view.owners)
            self._trouble = "" if view.well else DOWN
        self.nobody.refusal = self._trouble or "no node of the cluster owns the slot of this key"
        if self._trouble not in (before, ""):
            event(log, "no cluster", logging.WARNING, server=self._place.where, reason=self._trouble)
        if before == DOWN and not self._trouble:
            self._connected(False)

    async def _ask_around(self) -> View:
        """Over connections that there are, else at nodes that are known, else at those of the URL."""
        reason = ""
        groups: tuple[Sequence[Shard | Endpoint], ...] = (self._connections(), self._known(), self._place.asked)
        for nodes in groups:
            some = random.sample(nodes, min(ASKED, len(nodes)))
            answers = await asyncio.gather(*(self._ask_one(node) for node in some))
            views = [answer for answer in answers if isinstance(answer, View)]
            if views:
                return most_credible(views)
            reason = reason or next((str(answer) for answer in answers), "")
        raise Unavailable(reason)

    def _connections(self) -> list[Shard]:
        return [shard for shard in self._owners if shard.primary.up]

    def _known(self) -> list[Endpoint]:
        addresses = [*self._replicas, *(address for of_one in self._replicas.values() for address in of_one)]
        return [self._place.server.at(address) for address in addresses]

    async def _ask_one(self, node: Shard | Endpoint) -> View | Unavailable:
        where = node.where if isinstance(node, Endpoint) else node.primary.where
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                if isinstance(node, Endpoint):
                    replies = await ask(node, Kind.CLUSTER, *QUESTIONS)
                else:
                    replies = await node.pipeline.call_many(QUESTIONS)
            return read_view(replies, node.host)
        except (Unavailable, OSError, ReplyError) as e:
            return Unavailable(f"{where}: {str(e) or f'no answer within {ASK_TIMEOUT_S:g} s'}")

    async def _adopt(self, owners: list[Owner]) -> None:
        shards = {owner.address: self.shard_at(owner.address) for owner in owners}
        self._replicas = {owner.address: owner.replicas for owner in owners}
        await asyncio.gather(*(shard.primary.first_attempt.wait() for shard in shards.values()))
        by_slot: list[Shard | None] = [None] * SLOTS
        for owner in owners:
            by_slot[owner.first : owner.last + 1] = [shards[owner.address]] * (owner.last - owner.first + 1)
        if by_slot != self.by_slot:
            self.tags = _tags(by_slot)
        replaced = not set(self._owners) <= set(shards.values())
        self.by_slot, self._owners, self._vacant = by_slot, list(shards.values()), by_slot.count(None)
        for address in self._shards.keys() - shards.keys():
            self._tasks.spawn(_retire(self._shards.pop(address)))
        if replaced:
            self._connected(True)


def _tags(by_slot: Sequence[Shard | None]) -> list[str]:
    """The first number that falls to each shard. Of a shard with few slots that takes some thousand tries."""
    untold = set(by_slot) - {None}
    tags: list[str] = []
    for number in map(str, itertools.count()):
        if not untold:
            break
        shard = by_slot[slot_of(number)]
        if shard in untold:
            untold.remove(shard)
            tags.append(number)
    return tags


async def _retire(shard: Shard) -> None:
    try:
        if shard.primary.up:
            await asyncio.sleep(RETIRE_S)
    finally:
        await shard.stop()
