"""auth.keys_file: the keys that sign and verify tokens.

Rules. The first key signs, all verify: to rotate, put the new key first, and take the old one out once its last token
has expired. A line is a secret as text, or `base64url:` and its bytes in base64url; a PEM block is a public key, which
verifies and cannot sign. Empty lines and lines that begin with # are skipped. HS256 needs secrets of 32 bytes
(RFC 7518 §3.2): a shorter one can be guessed offline from any one token. An error names the line, never the key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import NamedTuple

from zpush.config import read_secret_file
from zpush.errors import ConfigError

MIN_KEY_BYTES = 32
MAX_KEYS = 8  # a token that no key verifies costs one try with each
_ENCODED = b"base64url:"
_BEGIN, _END = b"-----BEGIN ", b"-----END "
_PUBLIC = (b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN RSA PUBLIC KEY-----")


class Pem(NamedTuple):
    """A PEM block as it stands in the file, and where: "keys:3"."""

    text: bytes
    place: str


class KeyFile(NamedTuple):
    """In the file's order."""

    secrets: tuple[bytes, ...]
    public_keys: tuple[Pem, ...]


def load_keys(path: str) -> tuple[bytes, ...]:
    """The secrets of a file that holds nothing else. Raises ConfigError with the file and line."""
    file = load_key_file(path)
    if file.public_keys:
        raise ConfigError(f"{file.public_keys[0].place}: a public key; here only secrets sign and verify")
    return file.secrets


def load_key_file(path: str) -> KeyFile:
    """All keys, at least one. Raises ConfigError with the file and line."""
    secrets: list[bytes] = []
    public_keys: list[Pem] = []
    for text, place in _entries(read_secret_file(path, _holds_no_secret), path):
        if text.startswith(_BEGIN):
            public_keys.append(Pem(_public(text, place), place))
        else:
            secrets.append(_secret(text, place))
    count = len(secrets) + len(public_keys)
    if not count:
        raise ConfigError(f"{path}: there is no key in it; one stands on each line")
    if count > MAX_KEYS:
        raise ConfigError(f"{path}: {count} keys; at most {MAX_KEYS} are allowed")
    return KeyFile(tuple(secrets), tuple(public_keys))


def _holds_no_secret(content: bytes) -> bool:
    return all(text.startswith(_PUBLIC) for text, _ in _entries(content, ""))


def _entries(content: bytes, path: str) -> Iterator[tuple[bytes, str]]:
    """Each key's text and place: a line, or the lines of a PEM block."""
    block: list[bytes] = []
    place = ""
    for number, line in enumerate(content.splitlines(), 1):
        line = line.strip()
        if block or line.startswith(_BEGIN):
            place = place if block else f"{path}:{number}"
            block.append(line)
            if line.startswith(_END):
                yield b"\n".join(block), place
                block = []
        elif line and not line.startswith(b"#"):
            yield line, f"{path}:{number}"
    if block:
        yield b"\n".join(block), place


def _public(text: bytes, place: str) -> bytes:
    if not text.startswith(_PUBLIC):
        raise ConfigError(f"{place}: not a public key; write one with `openssl pkey -pubout` or `openssl x509 -pubkey`")
    return text + b"\n"


def _secret(line: bytes, place: str) -> bytes:
    key = line
    if line.startswith(_ENCODED):
        text = line.removeprefix(_ENCODED).rstrip(b"=")
        try:
            key = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise ConfigError(f"{place}: what follows base64url: is not base64url") from None
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"{place}: the key is {len(key)} bytes long; HS256 needs at least {MIN_KEY_BYTES}")
    return key
