"""How much each client address has: open connections, and what is left of its rate of connections begun.

Rules

- An IPv6 address counts as its /64: that is what one customer is given, and he can use all of its 2^64 addresses.
- The rate is a token bucket's. What is refused takes nothing from it, so whoever keeps knocking is let in as soon as
  there is a token again.
- An address is known only while it has something open or its bucket is not full; with no limit of `begun` set, only
  while something is open.
- Memory is bounded: there are at most `most` entries, which is more than can be open. Past it an address is forgotten
  that has nothing open, the one among some whose bucket is full the soonest: an attacker with a million addresses
  makes the limit forgetful, never the worker large. What is open is never forgotten.
- Where memory runs out the address is let in, uncounted: a limit is no reason to refuse everybody.

Theory

Open addressing with linear probing and SipHash under a random seed, as in table.pyx and for its reasons; an entry is
32 bytes and stands in its cell. Removal shifts the run back. The hand goes round the cells: at each sweep it forgets
what is over in the next SWEEP_CELLS of them, and where room is needed it looks for the fullest among LOOKED_AT.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from zpush._fast.bucket cimport bucket_full, bucket_spend, rate_t, rates_differ
from zpush._fast.networks cimport address_from_text, address_is_v4
from zpush._fast.table cimport siphash

cdef enum:
    FIRST_CELLS = 64
    IDLE_ENTRIES = 65536         # addresses with nothing open whose buckets are remembered, at most
    SWEEP_CELLS = 16384          # 512 KiB: some ten microseconds a second
    LOOKED_AT = 64

cdef int64_t allocated = 0
cdef int64_t freed = 0


cdef void addresses_init(addresses_t *a, uint32_t capacity, uint64_t seed0, uint64_t seed1) noexcept nogil:
    memset(a, 0, sizeof(addresses_t))
    a.most = <uint64_t>capacity + IDLE_ENTRIES
    a.seed[0] = seed0
    a.seed[1] = seed1


cdef void addresses_free(addresses_t *a) noexcept nogil:
    global freed
    if a.cells != NULL:
        free(a.cells)
        freed += 1
    a.cells = NULL
    a.mask = a.used = a.hand = 0


cdef void addresses_limit(addresses_t *a, address_limits limits) noexcept nogil:
    cdef uint64_t i
    if a.cells != NULL and rates_differ(limits.begun, a.limits.begun):
        for i in range(a.mask + 1):
            a.cells[i].bucket = 0
    a.limits = limits


cdef address_result addresses_take(addresses_t *a, const uint8_t *address, uint32_t now_s) noexcept nogil:
    cdef address_t wanted
    cdef address_t *entry
    make_key(a, address, &wanted)
    entry = find(a, &wanted)
    if entry == NULL:
        if not make_room(a):
            return ADDRESS_NO_MEMORY
        entry = add(a, &wanted)
    if a.limits.open and entry.open >= a.limits.open:
        return ADDRESS_TOO_MANY_OPEN
    if not bucket_spend(&entry.bucket, a.limits.begun, now_s, 1):
        return ADDRESS_TOO_MANY_BEGUN
    entry.open += 1
    return ADDRESS_TAKEN


cdef void addresses_release(addresses_t *a, const uint8_t *address, uint32_t now_s) noexcept nogil:
    cdef address_t wanted
    cdef address_t *entry
    make_key(a, address, &wanted)
    entry = find(a, &wanted)
    if entry == NULL or entry.open == 0:
        return
    entry.open -= 1
    if is_over(a, entry, now_s):
        remove(a, entry - a.cells)


cdef void addresses_sweep(addresses_t *a, uint32_t now_s) noexcept nogil:
    cdef uint64_t steps
    if a.used == 0:
        return
    steps = min(a.mask + 1, <uint64_t>SWEEP_CELLS)
    while steps:
        if a.cells[a.hand].hash and is_over(a, &a.cells[a.hand], now_s):
            remove(a, a.hand)  # the next one of its run may stand here now
        else:
            a.hand = (a.hand + 1) & a.mask
            steps -= 1


cdef uint64_t addresses_bytes(const addresses_t *a) noexcept nogil:
    return (a.mask + 1) * sizeof(address_t) if a.cells != NULL else 0


# --- the cells ---

cdef void make_key(const addresses_t *a, const uint8_t *address, address_t *wanted) noexcept nogil:
    memset(wanted, 0, sizeof(address_t))
    memcpy(wanted.key, address, 16 if address_is_v4(address) else 8)
    wanted.hash = <uint32_t>siphash(a.seed, wanted.key, 16) or 1


cdef bint is_over(const addresses_t *a, const address_t *entry, uint32_t now_s) noexcept nogil:
    return entry.open == 0 and bucket_full(entry.bucket, a.limits.begun, now_s)


cdef address_t *find(const addresses_t *a, const address_t *wanted) noexcept nogil:
    """Its cell, or NULL."""
    cdef uint64_t i = wanted.hash & a.mask
    if a.cells == NULL:
        return NULL
    while a.cells[i].hash:
        if a.cells[i].hash == wanted.hash and memcmp(a.cells[i].key, wanted.key, 16) == 0:
            return &a.cells[i]
        i = (i + 1) & a.mask
    return NULL


cdef address_t *add(addresses_t *a, const address_t *wanted) noexcept nogil:
    """There is an empty cell: the load is below 1."""
    cdef uint64_t i = wanted.hash & a.mask
    while a.cells[i].hash:
        i = (i + 1) & a.mask
    a.cells[i] = wanted[0]
    a.used += 1
    return &a.cells[i]


cdef bint make_room(addresses_t *a) noexcept nogil:
    """For one entry more. False: memory ran out, and nothing changed."""
    if a.used >= a.most:
        forget_fullest(a)
    if a.cells == NULL or (a.used + 1) * 4 > (a.mask + 1) * 3:
        return grow(a)
    return True


cdef bint grow(addresses_t *a) noexcept nogil:
    global allocated, freed
    cdef uint64_t cells = (a.mask + 1) * 2 if a.cells != NULL else <uint64_t>FIRST_CELLS
    cdef uint64_t i, to
    cdef address_t *grown = <address_t *>calloc(cells, sizeof(address_t))
    if grown == NULL:
        return False
    allocated += 1
    if a.cells != NULL:
        for i in range(a.mask + 1):
            if a.cells[i].hash:
                to = a.cells[i].hash & (cells - 1)
                while grown[to].hash:
                    to = (to + 1) & (cells - 1)
                grown[to] = a.cells[i]
        free(a.cells)
        freed += 1
    a.cells = grown
    a.mask = cells - 1
    return True


cdef void forget_fullest(addresses_t *a) noexcept nogil:
    """Of the next LOOKED_AT cells the one with nothing open and the most in its bucket; else the first one behind them."""
    cdef uint64_t looked_at = 0
    cdef int64_t fullest = -1
    while looked_at <= a.mask and (looked_at < LOOKED_AT or fullest < 0):
        if a.cells[a.hand].hash and a.cells[a.hand].open == 0:
            if fullest < 0 or a.cells[a.hand].bucket < a.cells[fullest].bucket:
                fullest = a.hand
        a.hand = (a.hand + 1) & a.mask
        looked_at += 1
    if fullest >= 0:
        remove(a, fullest)


cdef void remove(addresses_t *a, uint64_t hole) noexcept nogil:
    """Empties a cell. Each later cell of its run moves into the hole, unless that would put it before its home."""
    cdef uint64_t i = hole
    cdef uint64_t home
    while True:
        i = (i + 1) & a.mask
        if a.cells[i].hash == 0:
            break
        home = a.cells[i].hash & a.mask
        if ((i - home) & a.mask) >= ((i - hole) & a.mask):
            a.cells[hole] = a.cells[i]
            hole = i
    a.cells[hole].hash = 0
    a.used -= 1


TAKEN = ADDRESS_TAKEN
TOO_MANY_OPEN = ADDRESS_TOO_MANY_OPEN
TOO_MANY_BEGUN = ADDRESS_TOO_MANY_BEGUN


def allocations() -> tuple:
    """(allocated, freed): arrays of cells, since the module was loaded."""
    return allocated, freed


cdef class Addresses:
    """The table for Python: tests and benchmarks. The engine uses the C functions."""

    cdef addresses_t addresses

    def __cinit__(self, uint32_t open=0, uint32_t begun=0, uint32_t window_s=10, most=None, uint64_t seed=0):
        addresses_init(&self.addresses, 0, seed, seed + 1)
        if most is not None:
            self.addresses.most = most
        self.set_limits(open, begun, window_s)

    def __dealloc__(self):
        addresses_free(&self.addresses)

    def __len__(self):
        return self.addresses.used

    @property
    def bytes(self):
        return addresses_bytes(&self.addresses)

    def set_limits(self, uint32_t open, uint32_t begun, uint32_t window_s):
        addresses_limit(&self.addresses, address_limits(open=open, begun=rate_t(amount=begun, window_s=window_s)))

    cdef int parse(self, str text, uint8_t *address) except -1:
        cdef bytes data = text.encode()
        if not address_from_text(address, 0, <const uint8_t *><const char *>data, len(data)):
            raise ValueError("not an address")
        return 0

    def take(self, str text not None, uint32_t now_s):
        cdef uint8_t address[16]
        self.parse(text, address)
        return <int>addresses_take(&self.addresses, address, now_s)

    def release(self, str text not None, uint32_t now_s):
        cdef uint8_t address[16]
        self.parse(text, address)
        addresses_release(&self.addresses, address, now_s)

    def sweep(self, uint32_t now_s):
        addresses_sweep(&self.addresses, now_s)
