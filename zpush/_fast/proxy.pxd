# The PROXY protocol, versions 1 and 2: whom a load balancer speaks for.
from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    PROXY_BYTES = 2048           # the longest header, version 2 with all it carries

cdef enum proxy_result:
    PROXY_NEED_MORE = 0
    PROXY_MALFORMED = 1
    PROXY_CLIENT = 2             # address and port are the client's
    PROXY_OWN = 3                # the connection is the proxy's own, or its client has no IP address: keep the peer's

cdef struct proxy_header:
    size_t size                  # bytes of the header; what follows is the client's
    uint8_t address[16]
    uint16_t port                # host order

# data: what came of the connection so far, from its first byte on. Only the last two results set *out.
cdef proxy_result proxy_parse(const uint8_t *data, size_t size, proxy_header *out) noexcept nogil
