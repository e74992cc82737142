"""Who is connected where, and how to disconnect them: /v1/clients, /v1/users, /v1/nodes.

Rules. What is shown is the registry's word, read now: a lease counts only while its worker is alive. That somebody is
not connected is said only where it is certain, else 503. To
disconnect is to close the connection that the lease names, at its owner, with 4005 (the client does not
come back by itself); one that has been replaced meanwhile is left alone. While the registry is away, a
client of this very worker can still be disconnected.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

from zpush.errors import MalformedMessage, PeerUnreachable, RegistryUnavailable
from zpush.protocol.message import check_id
from zpush.registry.base import Lease, Node
from zpush.server.api_context import ApiContext, ApiError, in_time, json_response
from zpush.server.http_message import HttpRequest, HttpResponse

BY_OPERATOR = 4005


class ReadApi:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def client(self, request: HttpRequest) -> HttpResponse:
        """GET /v1/clients/{id}: its lease."""
        client_id = id_in_path(request)
        found = await self._context.router.locate(client_id)
        if found is None:
            raise _not_connected()
        return json_response(_view(*found))

    async def disconnect_client(self, request: HttpRequest) -> HttpResponse:
        """DELETE /v1/clients/{id}"""
        context = self._context
        client_id = id_in_path(request)
        try:
            found = await context.router.locate(client_id)
            closed = found is not None and await self._close(*found)
        except RegistryUnavailable:
            closed = context.local.close_client(client_id, 0, BY_OPERATOR)
            if not closed:
                raise  # it may be connected elsewhere
        if not closed:
            raise _not_connected()
        return json_response({"client": client_id, "disconnected": True})

    async def user(self, request: HttpRequest) -> HttpResponse:
        """GET /v1/users/{id}: the leases of the user's live clients; [] where there are none."""
        user_id = id_in_path(request)
        leases = await self._context.router.locate_user(user_id)
        return json_response({"user": user_id, "clients": [_view(lease, node) for lease, node in leases]})

    async def disconnect_user(self, request: HttpRequest) -> HttpResponse:
        """DELETE /v1/users/{id}"""
        user_id = id_in_path(request)
        leases = await self._context.router.locate_user(user_id)
        closed = await asyncio.gather(*(self._close(lease, node) for lease, node in leases))
        if not any(closed):
            raise ApiError(404, "not_found", "no client of this user is connected")
        return json_response({"user": user_id, "disconnected": closed.count(True)})

    async def nodes(self, request: HttpRequest) -> HttpResponse:
        """GET /v1/nodes: live workers of all regions, and the registry as this worker sees it."""
        registry = self._context.registry
        nodes, server = await in_time(asyncio.gather(registry.nodes(), registry.server()))
        ordered = sorted(nodes.values(), key=lambda node: (node.region, node.box, node.slot, node.started_ms))
        return json_response({"nodes": [_node_view(node) for node in ordered], "registry": server})

    async def _close(self, lease: Lease, node: Node) -> bool:
        context = self._context
        if node.id == context.node_id:
            return context.local.close_client(lease.client_id, lease.epoch, BY_OPERATOR)
        try:
            return await context.peers.close(node, lease.client_id, lease.epoch, BY_OPERATOR)
        except PeerUnreachable as e:
            if e.refused:
                return False  # the worker is gone, and the connection with it
            raise


def id_in_path(request: HttpRequest) -> str:
    """The last segment, percent-decoded (so an id may contain / as %2F)."""
    try:
        text = unquote_to_bytes(request.path.rpartition("/")[2]).decode()
    except UnicodeDecodeError:
        raise MalformedMessage("the id in the path is not valid UTF-8", "id") from None
    return check_id(text, "id")


def _not_connected() -> ApiError:
    return ApiError(404, "not_found", "this client is not connected")


def _view(lease: Lease, node: Node) -> dict[str, Any]:
    return {
        "client": lease.client_id,
        "user": lease.user_id,
        "node": node.id,
        "box": node.box,
        "worker": node.slot,
        "address": node.address,
        "region": node.region,
        "epoch": lease.epoch,
        "since_ms": lease.epoch,  # an epoch is the Unix ms of its handshake (docs/registry.md)
    }


def _node_view(node: Node) -> dict[str, Any]:
    return {
        "node": node.id,
        "box": node.box,
        "worker": node.slot,
        "address": node.address,
        "region": node.region,
        "state": node.state.value,
        "pid": node.pid,
        "connections": node.connections,
        "dirty_leases": node.dirty_leases,
        "started_ms": node.started_ms,
    }
