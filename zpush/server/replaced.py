"""Tells the worker of a replaced connection to close it.

Rules. Until it is told, the older socket still gets what its own box pushes directly. Its next renewal would find out,
but that is up to half a lease TTL away. So a call that fails is made again a few times, to wherever the node is then;
a dead node has nothing to close.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from zpush.delivery.peers import Peers
from zpush.delivery.router import Router
from zpush.errors import PeerUnreachable, RegistryUnavailable
from zpush.protocol.close import REPLACED
from zpush.registry.base import Lease

PAUSES_S = (1.0, 5.0, 20.0)  # a peer's restart, a registry's failover, and a Sentinel that takes its time
_log = logging.getLogger("zpush.clients")


async def close_replaced(
    replaced: Lease, router: Router, peers: Peers, on_dead: Callable[[Lease], None] | None
) -> None:
    """on_dead: who wants to know that its node was dead."""
    for pause_s in (*PAUSES_S, None):
        try:
            node = await router.node(replaced.node_id)
            if node is not None:  # no call goes to a dead incarnation
                await peers.close(node, replaced.client_id, replaced.epoch, REPLACED)
            elif on_dead is not None and await router.is_dead(replaced.node_id):
                on_dead(replaced)
            return
        except (RegistryUnavailable, PeerUnreachable) as e:
            if pause_s is None:
                _log.debug("the owner of a replaced connection was not told, its own renewal will find out: %s", e)
                return
        await asyncio.sleep(pause_s)
