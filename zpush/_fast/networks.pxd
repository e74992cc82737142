# IP addresses as 16 bytes, IPv4 as ::ffff:a.b.c.d; and the networks whose word is taken.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from zpush._fast.sys cimport sockaddr_storage

cdef struct network_t:
    uint8_t prefix[16]           # no bit set behind `bits`
    uint8_t bits                 # 0 to 128

cdef struct networks_t:
    network_t *list              # owned; NULL while there are none
    uint32_t count

cdef int networks_set(networks_t *n, object texts) except -1     # ValueError, MemoryError: nothing changed
cdef void networks_free(networks_t *n) noexcept nogil
cdef bint networks_hold(const networks_t *n, const uint8_t *address) noexcept nogil

cdef bint address_is_v4(const uint8_t *address) noexcept nogil
cdef void address_from_v4(uint8_t *address, const void *four) noexcept nogil
cdef bint address_from_socket(uint8_t *address, uint16_t *port, const sockaddr_storage *socket) noexcept nogil
# From text of exactly `size` bytes; family: AF_INET, AF_INET6, or 0 for either. False: not such an address.
cdef bint address_from_text(uint8_t *address, int family, const uint8_t *text, size_t size) noexcept nogil
cdef str address_text(const uint8_t *address)
cdef str peer_text(const uint8_t *address, uint16_t port)
