"""Calls from this process to other workers: deliver, broadcast, close.

Rules. One connection per owner and priority, so that low never stands in front of high and a client's
messages keep their order; requests of one turn leave in one write; answers come in any order. A node is
an incarnation: calls to it reach exactly that one or fail with PeerUnreachable, quickly. Nothing is tried
again here. See peer_frames.py for the wire, peer_hello.py for who may call, peer_server.py for the owner's side.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from zpush import log
from zpush.delivery.base import Delivery, Entry
from zpush.delivery.peer_calls import ANSWER_TIMEOUT_S, BroadcastCall, Call, CloseCall, DeliverCall
from zpush.delivery.peer_client import Channel, Timeouts
from zpush.delivery.peer_hello import HELLO_TIMEOUT_S, CallerHello
from zpush.delivery.peer_server import PeerServer
from zpush.errors import PeerUnreachable
from zpush.log import SparseLog
from zpush.protocol.message import Message, Priority
from zpush.registry.base import Node

__all__ = ["PeerServer", "Peers"]

_log = logging.getLogger("zpush.peers")


class Peers:
    """settle_timeout_s: how long a message may wait in an owner's write buffer (its unsent age) and 5 s more. A wait
    for acks comes on top of it.

    node_id: of this process, new at each start, and not shared: an owner keeps one connection of it per priority.
    """

    def __init__(
        self,
        secret: bytes,
        node_id: str,
        settle_timeout_s: float = 35.0,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
    ) -> None:
        self._secret = secret
        self._node_id = node_id
        self._timeouts = Timeouts(hello_timeout_s, answer_timeout_s, settle_timeout_s)
        self._channels: dict[tuple[str, Priority], Channel] = {}
        self._sparse = SparseLog(_log)
        CallerHello(secret, node_id, "", Priority.HIGH)  # a bad secret is found here

    def deliver(self, node: Node, priority: Priority, entries: Sequence[Entry], delivery: Delivery) -> None:
        """Never calls `delivery` from within. ValueError where the batch is over 16 MiB."""
        self._call(node, priority, DeliverCall(entries, delivery))

    def broadcast(self, node: Node, message: Message) -> asyncio.Future[dict[int, int]]:
        """{Outcome: connections}, or {} where the node has had this id already."""
        future: asyncio.Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        self._call(node, message.priority, BroadcastCall(message, future))
        return future

    def close(self, node: Node, client_id: str, epoch: int, code: int) -> asyncio.Future[bool]:
        """Closes the client's connection there if it is not newer than epoch (0: whatever it is)."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._call(node, Priority.HIGH, CloseCall(client_id, epoch, code, future))
        return future

    def forget(self, node_id: str) -> None:
        """The incarnation is dead: its connections are given up, every call on them fails before this returns."""
        for priority in Priority:
            channel = self._channels.pop((node_id, priority), None)
            if channel is not None:
                channel.close(f"node {node_id} is gone")

    async def stop(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close("this process is leaving")
        await asyncio.sleep(0)  # the sockets are closed a turn later

    def _call(self, node: Node, priority: Priority, call: Call) -> None:
        key = node.id, priority
        channel = self._channels.get(key)
        if channel is None:
            hello = CallerHello(self._secret, self._node_id, node.id, priority)
            channel = self._channels[key] = Channel(key, node.address, hello, self._timeouts, self._lost)
        channel.call(call)

    def _lost(self, channel: Channel, error: PeerUnreachable) -> None:
        if self._channels.get(channel.key) is not channel:
            return  # it was given up here
        del self._channels[channel.key]
        node_id, priority = channel.key
        if channel.idle:  # as whoever ends cleanly leaves
            log.event(_log, "a peer has left", logging.DEBUG, node=node_id, priority=priority.label, reason=str(error))
        else:
            self._sparse.warning("lost a peer", node=node_id, priority=priority.label, reason=str(error))
