"""auth.mode = "dev": a client is who it says it is, in `?client=ID` and, if it likes, `&user=ID`.

Rules. For this machine only, and a web page elsewhere must not reach it through the user's browser: the peer is
loopback, and so is the name it asked for. The second check defeats DNS rebinding, where a foreign name is made to
point here and Origin and Host agree with each other. Tokens are not looked at. Refusals say what to do, for the one who
reads them is the developer.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from zpush.auth.base import Authenticator, Identity
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol.handshake import Refusal, Request, host_name, malformed
from zpush.protocol.message import check_id


class DevAuthenticator(Authenticator):
    def authenticate(self, request: Request) -> Identity:
        """Raises Unauthorized for a peer elsewhere, and Refusal with a text for the developer."""
        if not is_loopback(request.peer_host):
            raise Unauthorized("auth.mode dev takes clients of this machine only")
        if not _is_here(request.header(b"host")):
            raise Refusal(400, "origin", "auth.mode dev answers to localhost and loopback addresses only; see Host")
        client_id = request.param("client")
        if not client_id:
            raise Refusal(401, "unauthorized", f"auth.mode dev: say who you are: {request.path}?client=ID")
        try:
            return Identity(check_id(client_id, "client"), _user_id(request))
        except MalformedMessage as e:
            raise malformed(e.reason) from None


def _user_id(request: Request) -> str:
    user_id = request.param("user")
    return check_id(user_id, "user") if user_id else ""


# The same few names and addresses come with every request, and ipaddress takes 5 µs for one.
@lru_cache(maxsize=256)
def _is_here(host: bytes) -> bool:
    return is_loopback_name(host_name(host).decode("latin-1"))


@lru_cache(maxsize=256)
def is_loopback(address: str) -> bool:
    """127.0.0.0/8 or ::1, also where IPv4 comes through an IPv6 socket."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return (mapped or parsed).is_loopback


def is_loopback_name(host: str) -> bool:
    """A Host header's name: localhost, a name below it (RFC 6761 §6.3), or a loopback address."""
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host.strip("[]"))
