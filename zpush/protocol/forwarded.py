"""Whose request it is where a proxy passed it on: X-Forwarded-For and Forwarded (RFC 7239).

Rules. Only a trusted proxy's word counts, and of its word only what it wrote itself: each proxy appends the address it
was called from, so the list is read from the right, trusted addresses are passed over, and the first other one is the
client's. Whatever stands left of it may have been written by the client, and is not looked at. If all are
trusted, the leftmost is the client's: a machine of one's own behind two proxies.

What cannot be read (no address, `unknown`, a hidden name, more than MAX_HOPS addresses) is ignored, and the proxy's
address is taken for the client's. Likewise where both headers are there and do not agree: the proxy writes one of
them, the other may be the client's, and it is not known which.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from zpush.protocol.head import Request

MAX_HOPS = 32
_MAPPED = 0xFFFF << 32  # IPv4 addresses as IPv6 ones (RFC 4291 §2.5.5.2), so that both families are one
_PORT = r"(?::[0-9]{1,5})?"
_V4 = re.compile(rf"([0-9.]{{7,15}}){_PORT}")
_COLONS = r"([0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,44})"
_V6 = re.compile(rf"\[{_COLONS}\]{_PORT}")
_BARE_V6 = re.compile(_COLONS)  # X-Forwarded-For only; the form of most
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rb'(%b)=(?:(%b)|"([^"\\]*)")' % (_TOKEN, _TOKEN)  # no backslashes: none of the values needs one
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rb"(?:%b)?(?:;(?:%b)?)*" % (_PAIR, _PAIR))


class Networks:
    """connections.trusted_proxies, compiled. Empty: nobody is trusted."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [_prefix(text) for text in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def hold(self, address: str) -> bool:
        """ValueError: not an address."""
        number = _number(address)
        return any(number >> shift == prefix for prefix, shift in self._networks)


def client_address(request: Request, trusted: Networks) -> str | None:
    """The client's address as trusted proxies tell it, request.peer_host where what they tell is ignored.

    None: nothing is told, or not by a trusted proxy.
    """
    hops, forwarded = request.headers.get(b"x-forwarded-for"), request.headers.get(b"forwarded")
    if (hops is None and forwarded is None) or not trusted.hold(request.peer_host):
        return None
    told: set[str | None] = set()
    if hops is not None:
        told.add(_client(_listed(hops), trusted))
    if forwarded is not None:
        told.add(_client(_forwarded(forwarded), trusted))
    found = told.pop()
    return request.peer_host if found is None or told else found


def _client(hops: Iterator[str | None], trusted: Networks) -> str | None:
    """hops: addresses from the nearest on, None for one that cannot be read."""
    hop = None
    for hop in hops:
        if hop is None or not trusted.hold(hop):
            break
    return hop


def _listed(value: bytes) -> Iterator[str | None]:
    for element in _pieces(value):
        yield _address(element.strip(b" \t"), (_V4, _V6, _BARE_V6))


def _forwarded(value: bytes) -> Iterator[str | None]:
    for element in _elements(value):
        element = element.strip(b" \t")
        pairs = _PAIRS.findall(element) if _ELEMENT.fullmatch(element) else []
        found = [token or quoted for name, token, quoted in pairs if name.lower() == b"for"]
        yield _address(found[0], (_V4, _V6)) if len(found) == 1 else None


def _elements(value: bytes) -> Iterator[bytes]:
    """A quote which a client leaves open spoils only what stands left of the proxies' own."""
    element = b""
    for piece in _pieces(value):
        element = piece + b"," + element if element else piece
        if element.count(b'"') % 2 == 0:
            yield element
            element = b""
    if element:
        yield element


def _pieces(value: bytes) -> Iterator[bytes]:
    """From the right. Past MAX_HOPS the rest is one piece, which nobody can read."""
    return reversed(value.rsplit(b",", MAX_HOPS - 1))


def _address(text: bytes, forms: Sequence[re.Pattern[str]]) -> str | None:
    decoded = text.decode("latin-1")
    for form in forms:
        if match := form.fullmatch(decoded):
            try:
                return _spelled(ipaddress.ip_address(match[1]))
            except ValueError:
                return None
    return None


def _spelled(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """One spelling for each address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _number(address: str) -> int:
    parsed = ipaddress.ip_address(address)
    return int(parsed) | (_MAPPED if parsed.version == 4 else 0)


def _prefix(text: str) -> tuple[int, int]:
    """(the network's bits, how far an address is shifted to be left with them)."""
    network = ipaddress.ip_network(text)
    shift = network.max_prefixlen - network.prefixlen
    return _number(str(network.network_address)) >> shift, shift
