"""The peers' hello, sans-IO: both sides prove that they know the shared secret before anything else is said.

    caller → owner   hello      version, caller's node id, wanted node id, priority, nonce
    owner → caller   challenge  version, owner's node id, nonce
    caller → owner   proof      HMAC-SHA256(secret, "caller" ‖ hello ‖ challenge)
    owner → caller   welcome    HMAC-SHA256(secret, "owner" ‖ hello ‖ challenge)

The caller proves first, so that a stranger who connects learns nothing that he could test guesses of the
secret against. Both proofs cover both hellos byte by byte (versions, ids, nonces); the label keeps a
proof from being mirrored. The welcome is also what makes the owner's node id trustworthy: another
incarnation may listen on a dead one's port, and that ends the dead one's leases. The secret keeps
strangers out; it does not hide the traffic: the internal port belongs on a private network.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated, TypeVar

import msgspec

from zpush.delivery.peer_frames import LENGTH_BYTES, PeerProtocolError, encode
from zpush.errors import ConfigError, PeerUnreachable
from zpush.protocol.message import Priority

VERSION = 1
HELLO_FRAME_BYTES = 1024  # the longest frame that a stranger may send
HELLO_TIMEOUT_S = 5.0
NONCE_BYTES = 32

_NodeId = Annotated[str, msgspec.Meta(max_length=64)]
_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Hello(msgspec.Struct, array_like=True, tag="zpush hello", frozen=True):
    version: int
    caller: _NodeId
    wanted: _NodeId
    priority: Priority
    nonce: _Nonce


class Challenge(msgspec.Struct, array_like=True, tag="zpush challenge", frozen=True):
    version: int
    owner: _NodeId
    nonce: _Nonce


class Proof(msgspec.Struct, array_like=True, tag="zpush proof", frozen=True):
    mac: Annotated[bytes, msgspec.Meta(max_length=32)]


class Welcome(msgspec.Struct, array_like=True, tag="zpush welcome", frozen=True):
    mac: Annotated[bytes, msgspec.Meta(max_length=32)]


class _Anything(msgspec.Struct, array_like=True, frozen=True):
    """What every version's hello and challenge begin with."""

    kind: str
    version: int


_T = TypeVar("_T", Hello, Challenge, Proof, Welcome)


class CallerHello:
    """The caller's side. `first` is sent at once; then each frame that comes in goes to the next method."""

    def __init__(self, secret: bytes, node_id: str, wanted: str, priority: Priority) -> None:
        _check_secret(secret)
        self._secret = secret
        self._wanted = wanted
        self.first = encode(Hello(VERSION, node_id, wanted, priority, secrets.token_bytes(NONCE_BYTES)))
        self._transcript = self.first[LENGTH_BYTES:]
        self._owner = ""

    def challenged(self, body: bytes) -> bytes:
        """Takes the challenge, gives the proof's frame."""
        _check_version(body)
        challenge = _decode(body, Challenge)
        self._owner = challenge.owner
        self._transcript += body
        return encode(Proof(_mac(self._secret, b"caller", self._transcript)))

    def welcomed(self, body: bytes) -> None:
        """Takes the welcome. PeerUnreachable(refused) where the wanted incarnation is gone: another one is there."""
        welcome = _decode(body, Welcome)
        if not hmac.compare_digest(welcome.mac, _mac(self._secret, b"owner", self._transcript)):
            raise PeerProtocolError("the owner does not know the secret")
        if self._owner != self._wanted:
            raise PeerUnreachable(f"node {self._wanted} is gone; {self._owner} listens there now", refused=True)


class OwnerHello:
    """The owner's side, the same way."""

    def __init__(self, secret: bytes, node_id: str) -> None:
        _check_secret(secret)
        self._secret = secret
        self._node_id = node_id
        self._transcript = b""
        self.caller = ""
        self.priority = Priority.HIGH

    def greeted(self, body: bytes) -> tuple[bytes, bool]:
        """Takes the hello, gives the challenge's frame. False: it only tells a caller of another version ours."""
        challenge = encode(Challenge(VERSION, self._node_id, secrets.token_bytes(NONCE_BYTES)))
        if _version(body) != VERSION:
            return challenge, False
        hello = _decode(body, Hello)
        self.caller, self.priority = hello.caller, hello.priority
        self._transcript = body + challenge[LENGTH_BYTES:]
        return challenge, True

    def proved(self, body: bytes) -> bytes:
        """Takes the proof, gives the welcome's frame."""
        proof = _decode(body, Proof)
        if not hmac.compare_digest(proof.mac, _mac(self._secret, b"caller", self._transcript)):
            raise PeerProtocolError("the caller does not know the secret")
        return encode(Welcome(_mac(self._secret, b"owner", self._transcript)))


def _check_secret(secret: bytes) -> None:
    if not secret:
        raise ConfigError("peers.secret is empty; anyone could deliver")


def _mac(secret: bytes, label: bytes, transcript: bytes) -> bytes:
    return hmac.new(secret, label + b"\0" + transcript, hashlib.sha256).digest()


def _version(body: bytes) -> int:
    try:
        return msgspec.msgpack.decode(body, type=_Anything).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PeerProtocolError("not a hello") from None


def _check_version(body: bytes) -> None:
    version = _version(body)
    if version != VERSION:
        raise PeerProtocolError(f"the owner speaks version {version} of the peers' protocol, this is version {VERSION}")


def _decode(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PeerProtocolError(f"not a {shape.__name__.lower()}") from None
