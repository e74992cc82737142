"""The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt), sans-IO.

Rules. The whole header is read anew from the connection's first byte each time more of it has come: it is short
(107 bytes in version 1, PROXY_BYTES in version 2), nearly always comes at once, and so there is no state. A beginning
that no header has is malformed at once, without waiting for the rest. Nothing is guessed: whoever must send a header
and does not is malformed.

A header names the client, or says that there is none to name: LOCAL (a health check of the proxy's own), UNKNOWN,
a Unix socket, a datagram. Then the connection stays its peer's. Destinations and version 2's TLVs are skipped.

PROXY_BYTES: senders should stay below 536 bytes, so that a header fits in any first segment (§2.2); TLVs about TLS may
need more. The length field alone would allow 64 KiB.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr, memcmp, memcpy, strlen

from zpush._fast.networks cimport address_from_text, address_from_v4, address_text
from zpush._fast.sys cimport AF_INET, AF_INET6

cdef enum:
    LINE_BYTES = 107             # §2.1: the longest line, with its CRLF
    FIXED_BYTES = 16             # §2.2: signature, version and command, family and transport, length
    SIGNATURE_BYTES = 12
    LOCAL = 0x20
    PROXY = 0x21
    TCP4 = 0x11
    TCP6 = 0x21
    MOST_FAMILY = 3
    MOST_TRANSPORT = 2

cdef const uint8_t *SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
cdef const uint8_t *WORD = b"PROXY "
cdef uint16_t[4] ADDRESSES_BYTES = [0, 12, 36, 216]  # by family: unspecified, IPv4, IPv6, Unix


cdef proxy_result proxy_parse(const uint8_t *data, size_t size, proxy_header *out) noexcept nogil:
    if size == 0:
        return PROXY_NEED_MORE
    if data[0] == SIGNATURE[0]:
        return parse_v2(data, size, out)
    return parse_v1(data, size, out)


# --- version 1: a line ---

cdef proxy_result parse_v1(const uint8_t *data, size_t size, proxy_header *out) noexcept nogil:
    cdef size_t word_bytes = strlen(<const char *>WORD)
    cdef size_t looked_at = min(size, <size_t>LINE_BYTES - 1)  # CR is the last but one, at most
    cdef size_t line
    cdef const uint8_t *end
    if memcmp(data, WORD, min(size, word_bytes)) != 0:
        return PROXY_MALFORMED
    end = <const uint8_t *>memchr(data, 13, looked_at)
    line = end - data if end != NULL else looked_at
    if memchr(data, 10, line) != NULL or (end == NULL and size >= LINE_BYTES - 1):
        return PROXY_MALFORMED
    if end == NULL or line + 1 == size:
        return PROXY_NEED_MORE
    if end[1] != 10:
        return PROXY_MALFORMED
    out.size = line + 2
    return parse_line(data + word_bytes, end, out)


cdef proxy_result parse_line(const uint8_t *text, const uint8_t *end, proxy_header *out) noexcept nogil:
    """What stands between "PROXY " and CRLF: family, source, destination, their ports."""
    cdef const uint8_t *fields[5]
    cdef size_t sizes[5]
    cdef uint8_t destination[16]
    cdef uint16_t port
    cdef int family = 0
    if end - text >= 7 and memcmp(text, b"UNKNOWN", 7) == 0 and (end - text == 7 or text[7] == 32):
        return PROXY_OWN  # what follows must be ignored (§2.1)
    if not split(text, end, fields, sizes):
        return PROXY_MALFORMED
    if sizes[0] == 4 and memcmp(fields[0], b"TCP4", 4) == 0:
        family = AF_INET
    elif sizes[0] == 4 and memcmp(fields[0], b"TCP6", 4) == 0:
        family = AF_INET6
    else:
        return PROXY_MALFORMED
    if not (address_from_text(out.address, family, fields[1], sizes[1])
            and address_from_text(destination, family, fields[2], sizes[2])
            and parse_port(fields[3], sizes[3], &out.port) and parse_port(fields[4], sizes[4], &port)):
        return PROXY_MALFORMED
    return PROXY_CLIENT


cdef bint split(const uint8_t *text, const uint8_t *end, const uint8_t **fields, size_t *sizes) noexcept nogil:
    """Five fields with one space between."""
    cdef const uint8_t *space
    cdef int i
    for i in range(4):
        space = <const uint8_t *>memchr(text, 32, end - text)
        if space == NULL:
            return False
        fields[i] = text
        sizes[i] = space - text
        text = space + 1
    fields[4] = text
    sizes[4] = end - text
    return True


cdef bint parse_port(const uint8_t *text, size_t size, uint16_t *port) noexcept nogil:
    cdef int value = 0
    cdef size_t i
    if size == 0 or size > 5 or (text[0] == 48 and size > 1):
        return False
    for i in range(size):
        if text[i] < 48 or text[i] > 57:
            return False
        value = value * 10 + text[i] - 48
    port[0] = <uint16_t>value
    return value <= 65535


# --- version 2: binary ---

cdef proxy_result parse_v2(const uint8_t *data, size_t size, proxy_header *out) noexcept nogil:
    cdef size_t more
    if memcmp(data, SIGNATURE, min(size, <size_t>SIGNATURE_BYTES)) != 0:
        return PROXY_MALFORMED
    if size > 12 and data[12] != LOCAL and data[12] != PROXY:
        return PROXY_MALFORMED
    if size < FIXED_BYTES:
        return PROXY_NEED_MORE
    more = (<size_t>data[14] << 8) | data[15]
    if FIXED_BYTES + more > PROXY_BYTES:
        return PROXY_MALFORMED
    if data[12] == PROXY and not family_fits(data[13], more):
        return PROXY_MALFORMED
    if size < FIXED_BYTES + more:
        return PROXY_NEED_MORE
    out.size = FIXED_BYTES + more
    if data[12] == LOCAL:
        return PROXY_OWN  # whatever family it claims (§2.2)
    if data[13] == TCP4:
        address_from_v4(out.address, data + 16)
        out.port = (<uint16_t>data[24] << 8) | data[25]
        return PROXY_CLIENT
    if data[13] == TCP6:
        memcpy(out.address, data + 16, 16)
        out.port = (<uint16_t>data[48] << 8) | data[49]
        return PROXY_CLIENT
    return PROXY_OWN


cdef bint family_fits(uint8_t family, size_t more) noexcept nogil:
    """A family and transport that exist, with room for their addresses."""
    if family >> 4 > MOST_FAMILY or family & 15 > MOST_TRANSPORT:
        return False
    return more >= ADDRESSES_BYTES[family >> 4]


MAX_BYTES = PROXY_BYTES


def parse(bytes data not None):
    cdef proxy_header header
    cdef proxy_result result = proxy_parse(<const uint8_t *><const char *>data, len(data), &header)
    if result == PROXY_NEED_MORE:
        return None
    if result == PROXY_MALFORMED:
        raise ValueError("not a PROXY header")
    if result == PROXY_OWN:
        return header.size, None
    return header.size, (address_text(header.address), header.port)
