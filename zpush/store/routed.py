"""Commands on their way through a cluster: one, or a batch over several shards.

Rules. A refusal concerns the command that was refused, nobody else: where the cluster follows it the command goes
on alone, and its reply takes its place in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from zpush.store.pipeline import Future, Taker, settle
from zpush.store.replies import ReplyError


class Follower(Protocol):
    def follow(self, routed: Routed, error: ReplyError) -> bool:
        """Whether the command goes on elsewhere, and will be told another reply."""
        ...


class Routed:
    """Stands in a pipeline for one command. host: where it was sent. hops: how often it was sent elsewhere."""

    __slots__ = ("_follower", "_waiter", "hops", "host", "packed")

    def __init__(self, follower: Follower, packed: bytes, waiter: Future | Taker, host: str) -> None:
        self.packed = packed
        self.host = host
        self.hops = 0
        self._follower = follower
        self._waiter = waiter

    def take(self, reply: Any) -> None:
        if not isinstance(reply, ReplyError) or not self._follower.follow(self, reply):
            settle(self._waiter, reply)


class Spread:
    """Replies of a batch, in the order of its commands; `future` has them once all parts have arrived."""

    def __init__(self, follower: Follower, packed: Sequence[bytes], parts: int, future: Future) -> None:
        self.future = future
        self._follower = follower
        self._packed = packed
        self._replies: list[Any] = [None] * len(packed)
        self._left = parts  # and one for each command that was refused

    def arrived(self, host: str, places: Sequence[int], part: Future) -> None:
        """A shard's replies: part.result()."""
        replies = self._replies
        for place, reply in zip(places, part.result(), strict=True):
            replies[place] = reply
            if isinstance(reply, ReplyError):
                self._left += 1
                Routed(self._follower, self._packed[place], _Place(self, place), host).take(reply)
        self._one_less()

    def settle(self, place: int, reply: Any) -> None:
        self._replies[place] = reply
        self._one_less()

    def _one_less(self) -> None:
        self._left -= 1
        if self._left == 0 and not self.future.done():
            self.future.set_result(self._replies)


class _Place:
    """Takes the reply to one command of a batch."""

    __slots__ = ("_place", "_spread")

    def __init__(self, spread: Spread, place: int) -> None:
        self._spread = spread
        self._place = place

    def take(self, reply: Any) -> None:
        self._spread.settle(self._place, reply)
