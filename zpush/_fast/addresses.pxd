# How much each client address has: open connections, and what is left of its rate of handshakes.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zpush._fast.bucket cimport rate_t

cdef enum address_result:
    ADDRESS_TAKEN = 0            # counted; to be released once
    ADDRESS_TOO_MANY_OPEN = 1    # not counted
    ADDRESS_TOO_MANY_BEGUN = 2   # not counted
    ADDRESS_NO_MEMORY = 3        # not counted

cdef struct address_limits:
    uint32_t open                # connections at once; 0 = no limit
    rate_t begun                 # connections begun

cdef struct address_t:
    uint8_t key[16]              # IPv4: the address, mapped; IPv6: its /64
    uint32_t hash                # of the key; 0 = an empty cell
    uint32_t open
    uint64_t bucket              # of limits.begun

cdef struct addresses_t:
    address_t *cells             # owned; NULL until the first address is taken
    uint64_t mask                # cells - 1, a power of two less one
    uint64_t used
    uint64_t most                # entries
    uint64_t hand                # where forgetting goes on
    uint64_t seed[2]
    address_limits limits

# capacity: connections that may be open at once. Allocates nothing.
cdef void addresses_init(addresses_t *a, uint32_t capacity, uint64_t seed0, uint64_t seed1) noexcept nogil
cdef void addresses_free(addresses_t *a) noexcept nogil
# In force from now on; where the rate is another one, everybody's bucket is full.
cdef void addresses_limit(addresses_t *a, address_limits limits) noexcept nogil
cdef address_result addresses_take(addresses_t *a, const uint8_t *address, uint32_t now_s) noexcept nogil
# What was taken comes back: the connection is gone.
cdef void addresses_release(addresses_t *a, const uint8_t *address, uint32_t now_s) noexcept nogil
# Forgets some of those that have nothing open and a full bucket.
cdef void addresses_sweep(addresses_t *a, uint32_t now_s) noexcept nogil
cdef uint64_t addresses_bytes(const addresses_t *a) noexcept nogil
