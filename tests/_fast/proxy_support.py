"""PROXY headers as proxies write them (haproxy's proxy-protocol.txt)."""

from __future__ import annotations

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v1(family: str, source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    return f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def v2(command: int, family: int, body: bytes = b"") -> bytes:
    """command: version and command; family: family and transport."""
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


def v2_from(source: str, port: int, tlvs: bytes = b"") -> bytes:
    """A client's connection over TCP."""
    address = ipaddress.ip_address(source)
    body = address.packed + bytes(len(address.packed)) + struct.pack(">HH", port, 443)
    return v2(0x21, 0x11 if address.version == 4 else 0x21, body + tlvs)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


LOCAL = v2(0x20, 0x00)
