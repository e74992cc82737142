"""IP addresses and networks, both families in one form.

Rules. An address is 16 bytes: IPv6, or IPv4 mapped into it (RFC 4291 §2.5.5.2), so that a client has one address
whichever family its socket has. A network is a prefix of that form: 10.0.0.0/8 is ::ffff:10.0.0.0/104. So ::/0 is
everybody. Networks are few, and a test is a comparison of at most 16 bytes for each.
"""

import ipaddress

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset

from zpush._fast.sys cimport (
    AF_INET, AF_INET6, inet_ntop, inet_pton, ntohs, sockaddr_in, sockaddr_in6, sockaddr_storage,
)

cdef enum:
    TEXT_BYTES = 46              # INET6_ADDRSTRLEN, the terminating zero included
    V4_BITS = 96                 # before an IPv4 address

cdef int64_t allocated = 0
cdef int64_t freed = 0


cdef int networks_set(networks_t *n, object texts) except -1:
    global allocated
    cdef list parsed = [ipaddress.ip_network(text) for text in texts]
    cdef network_t *found = NULL
    cdef uint32_t i
    cdef bytes packed
    if parsed:
        found = <network_t *>calloc(len(parsed), sizeof(network_t))
        if found == NULL:
            raise MemoryError
        allocated += 1
    for i, network in enumerate(parsed):
        packed = network.network_address.packed
        if len(packed) == 4:
            address_from_v4(found[i].prefix, <const char *>packed)
            found[i].bits = V4_BITS + network.prefixlen
        else:
            memcpy(found[i].prefix, <const char *>packed, 16)
            found[i].bits = network.prefixlen
    networks_free(n)
    n.list = found
    n.count = <uint32_t>len(parsed)
    return 0


cdef void networks_free(networks_t *n) noexcept nogil:
    global freed
    if n.list != NULL:
        free(n.list)
        freed += 1
    n.list = NULL
    n.count = 0


cdef bint networks_hold(const networks_t *n, const uint8_t *address) noexcept nogil:
    cdef uint32_t i
    for i in range(n.count):
        if matches(&n.list[i], address):
            return True
    return False


cdef bint matches(const network_t *network, const uint8_t *address) noexcept nogil:
    cdef int whole = network.bits >> 3
    cdef int more = network.bits & 7
    if memcmp(network.prefix, address, whole) != 0:
        return False
    return more == 0 or (network.prefix[whole] ^ address[whole]) >> (8 - more) == 0


cdef bint address_is_v4(const uint8_t *address) noexcept nogil:
    cdef int i
    for i in range(10):
        if address[i]:
            return False
    return address[10] == 0xff and address[11] == 0xff


cdef void address_from_v4(uint8_t *address, const void *four) noexcept nogil:
    memset(address, 0, 10)
    address[10] = address[11] = 0xff
    memcpy(address + 12, four, 4)


cdef bint address_from_socket(uint8_t *address, uint16_t *port, const sockaddr_storage *socket) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *>socket
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>socket
    if socket.ss_family == AF_INET:
        address_from_v4(address, &v4.sin_addr)
        port[0] = ntohs(v4.sin_port)
        return True
    if socket.ss_family == AF_INET6:
        memcpy(address, &v6.sin6_addr, 16)
        port[0] = ntohs(v6.sin6_port)
        return True
    return False


cdef bint address_from_text(uint8_t *address, int family, const uint8_t *text, size_t size) noexcept nogil:
    cdef char terminated[TEXT_BYTES]
    cdef uint8_t four[4]
    cdef size_t i
    if size >= TEXT_BYTES:
        return False
    if family == 0:
        family = AF_INET6 if memchr(text, 58, size) != NULL else AF_INET
    for i in range(size):
        if text[i] == 0:
            return False  # inet_pton would stop here and see nothing of what follows
        terminated[i] = text[i]
    terminated[size] = 0
    if family == AF_INET6:
        return inet_pton(AF_INET6, terminated, address) == 1
    if inet_pton(AF_INET, terminated, four) != 1:
        return False
    address_from_v4(address, four)
    return True


cdef str address_text(const uint8_t *address):
    """"192.0.2.1" or "2001:db8::1"."""
    cdef char text[TEXT_BYTES]
    if address_is_v4(address):
        inet_ntop(AF_INET, address + 12, text, sizeof(text))
    else:
        inet_ntop(AF_INET6, address, text, sizeof(text))
    return text.decode("ascii")


cdef str peer_text(const uint8_t *address, uint16_t port):
    """"192.0.2.1:4711" or "[2001:db8::1]:4711"."""
    cdef char text[TEXT_BYTES]
    cdef int size
    if not address_is_v4(address):
        return f"[{address_text(address)}]:{port}"
    # Once for each request, and in half of inet_ntop's time.
    size = snprintf(text, sizeof(text), "%u.%u.%u.%u:%u", address[12], address[13], address[14], address[15], port)
    return text[:size].decode("ascii")


def allocations() -> tuple:
    """(allocated, freed): lists, since the module was loaded."""
    return allocated, freed


cdef class Networks:
    """Networks for Python: tests. The engine uses the C functions."""

    cdef networks_t networks

    def __cinit__(self, texts):
        networks_set(&self.networks, texts)

    def __dealloc__(self):
        networks_free(&self.networks)

    def hold(self, str text not None):
        cdef uint8_t address[16]
        if not parse(text, address):
            raise ValueError("not an address")
        return bool(networks_hold(&self.networks, address))


cdef bint parse(str text, uint8_t *address):
    cdef bytes data = text.encode()
    return address_from_text(address, 0, <const uint8_t *><const char *>data, len(data))


def normal(str text not None):
    cdef uint8_t address[16]
    return address_text(address) if parse(text, address) else None
