"""Who is in which slot: client id -> slot, slot -> ids. The only index of clients a worker has.

Rules

- An id leads to at most one slot: the last bind wins. A slot that lost its id to a later one keeps its ident, so
  that its close can still be told whose it was; unbinding it leaves the id with the new slot.
- A slot has one ident: binding a bound slot unbinds it first, so the answer of table_bind is never the slot itself.
- Nothing changes where memory runs out (-2).
- Slots are below the capacity, lengths fit in a byte: the caller's promise (the Python wrapper checks both).
- One thread at a time.

Theory

Open addressing with linear probing: a look-up reads cells side by side, most often one cache line. A cell is
eight bytes, 32 bits of the id's hash and the slot; the id itself is read only where all 32 bits agree. The hash is
SipHash-1-3 under a random seed: clients choose their ids, and without the seed they could choose them
so that all fall on one cell. The 32 bits in the cell also give its home, so growing and removing never hash again.

Removal shifts the following cells of the run back instead of leaving a tombstone: a worker lives for
months of binds and unbinds, and tombstones would fill the table without a client in it. Cells double at 3/4 load,
where a run is short still (8.5 probes for a miss on average), and never shrink: they are bounded by the slots.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef enum:
    FIRST_CELLS = 64
    LENGTHS_BYTES = 2            # of an ident_t, before its text

cdef int64_t allocated = 0
cdef int64_t freed = 0


# --- SipHash-1-3 (Aumasson and Bernstein; the variant of CPython, Rust and Ruby) ---

cdef inline uint64_t rotate(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] = rotate(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] = rotate(v[2], 32)


cdef inline uint64_t little_endian(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint64_t word = 0
    cdef size_t i
    for i in range(size):
        word |= <uint64_t>data[i] << (8 * i)
    return word


cdef uint64_t siphash(const uint64_t *seed, const uint8_t *data, size_t size) noexcept nogil:
    cdef uint64_t[4] v
    cdef uint64_t word
    cdef size_t whole = size & ~<size_t>7
    cdef size_t i = 0
    v[0] = seed[0] ^ <uint64_t>0x736F6D6570736575
    v[1] = seed[1] ^ <uint64_t>0x646F72616E646F6D
    v[2] = seed[0] ^ <uint64_t>0x6C7967656E657261
    v[3] = seed[1] ^ <uint64_t>0x7465646279746573
    while i < whole:
        word = little_endian(data + i, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        i += 8
    word = (<uint64_t>size << 56) | little_endian(data + whole, size - whole)
    v[3] ^= word
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


# --- the cells ---

cdef int table_init(table_t *t, uint32_t capacity, uint64_t seed0, uint64_t seed1) except -1:
    global allocated
    if capacity == 0 or capacity >= <uint32_t>1 << 31:
        raise ValueError("a table has between one and 2^31 - 1 slots")
    t.idents = <ident_t **>calloc(capacity, sizeof(ident_t *))
    t.cells = <cell_t *>calloc(FIRST_CELLS, sizeof(cell_t))
    if t.idents == NULL or t.cells == NULL:
        free(t.idents)
        free(t.cells)
        t.idents = NULL
        t.cells = NULL
        raise MemoryError()
    allocated += 2
    t.mask = FIRST_CELLS - 1
    t.used = 0
    t.seed[0] = seed0
    t.seed[1] = seed1
    t.capacity = capacity
    t.blob_bytes = 0
    return 0


cdef void table_free(table_t *t) noexcept nogil:
    global freed
    cdef uint32_t slot
    if t.idents == NULL:
        return
    for slot in range(t.capacity):
        ident_free(t, slot)
    free(t.idents)
    free(t.cells)
    freed += 2
    t.idents = NULL
    t.cells = NULL
    t.mask = t.used = 0
    t.capacity = 0


cdef uint64_t locate(const table_t *t, uint32_t hash, const uint8_t *client, size_t client_bytes) noexcept nogil:
    """The id's cell, or the empty one where it would go. There is an empty one always: the load is below 1."""
    cdef uint64_t i = hash & t.mask
    cdef const ident_t *ident
    while t.cells[i].slot:
        if t.cells[i].hash == hash:
            ident = t.idents[t.cells[i].slot - 1]
            if ident.client_bytes == client_bytes and memcmp(ident.text, client, client_bytes) == 0:
                break
        i = (i + 1) & t.mask
    return i


cdef bint grow(table_t *t) noexcept nogil:
    """Doubles the cells. False, and nothing changed, where memory ran out."""
    global allocated, freed
    cdef uint64_t mask = (t.mask << 1) | 1
    cdef cell_t *cells = <cell_t *>calloc(mask + 1, sizeof(cell_t))
    cdef uint64_t i, to
    if cells == NULL:
        return False
    allocated += 1
    for i in range(t.mask + 1):
        if t.cells[i].slot:
            to = t.cells[i].hash & mask
            while cells[to].slot:
                to = (to + 1) & mask
            cells[to] = t.cells[i]
    free(t.cells)
    freed += 1
    t.cells = cells
    t.mask = mask
    return True


cdef void remove(table_t *t, uint64_t hole) noexcept nogil:
    """Empties a cell. Each later cell of its run moves into the hole, unless that would put it before its home."""
    cdef uint64_t i = hole
    cdef uint64_t home
    while True:
        i = (i + 1) & t.mask
        if t.cells[i].slot == 0:
            break
        home = t.cells[i].hash & t.mask
        if ((i - home) & t.mask) >= ((i - hole) & t.mask):
            t.cells[hole] = t.cells[i]
            hole = i
    t.cells[hole].slot = 0
    t.used -= 1


# --- the idents ---

cdef inline size_t ident_bytes(const ident_t *ident) noexcept nogil:
    return LENGTHS_BYTES + <size_t>ident.client_bytes + ident.user_bytes


cdef ident_t *ident_new(const uint8_t *client, uint8_t client_bytes,
                        const uint8_t *user, uint8_t user_bytes) noexcept nogil:
    """Owned by the caller; NULL where memory ran out."""
    global allocated
    # Never less than the struct as C sees it, with one byte of text, though only what is used is ever touched.
    cdef size_t size = LENGTHS_BYTES + <size_t>client_bytes + user_bytes
    cdef ident_t *ident = <ident_t *>malloc(size if size > sizeof(ident_t) else sizeof(ident_t))
    if ident == NULL:
        return NULL
    allocated += 1
    ident.client_bytes = client_bytes
    ident.user_bytes = user_bytes
    if client_bytes:
        memcpy(ident.text, client, client_bytes)
    if user_bytes:
        memcpy(ident.text + client_bytes, user, user_bytes)
    return ident


cdef void ident_free(table_t *t, uint32_t slot) noexcept nogil:
    global freed
    if t.idents[slot] == NULL:
        return
    t.blob_bytes -= ident_bytes(t.idents[slot])
    free(t.idents[slot])
    t.idents[slot] = NULL
    freed += 1


# --- the contract ---

cdef int64_t table_bind(table_t *t, uint32_t slot, const uint8_t *client, uint8_t client_bytes,
                        const uint8_t *user, uint8_t user_bytes) noexcept nogil:
    global freed
    cdef uint32_t hash = <uint32_t>(siphash(t.seed, client, client_bytes) >> 32)
    cdef ident_t *ident = ident_new(client, client_bytes, user, user_bytes)
    cdef int64_t earlier
    cdef uint64_t i
    if ident == NULL:
        return -2
    if (t.used + 1) * 4 > (t.mask + 1) * 3 and not grow(t):
        free(ident)
        freed += 1
        return -2
    # The new ident is a copy already: client and user may point into the one that goes now.
    table_unbind(t, slot)
    i = locate(t, hash, ident.text, client_bytes)
    earlier = <int64_t>t.cells[i].slot - 1
    if earlier < 0:
        t.used += 1
    t.cells[i].hash = hash
    t.cells[i].slot = slot + 1
    t.idents[slot] = ident
    t.blob_bytes += ident_bytes(ident)
    return earlier


cdef int64_t table_find(const table_t *t, const uint8_t *client, size_t client_bytes) noexcept nogil:
    cdef uint32_t hash
    if client_bytes > 255:
        return -1
    hash = <uint32_t>(siphash(t.seed, client, client_bytes) >> 32)
    return <int64_t>t.cells[locate(t, hash, client, client_bytes)].slot - 1


cdef bint table_unbind(table_t *t, uint32_t slot) noexcept nogil:
    cdef const ident_t *ident = t.idents[slot]
    cdef uint32_t hash
    cdef uint64_t i
    cdef bint led_here
    if ident == NULL:
        return False
    hash = <uint32_t>(siphash(t.seed, ident.text, ident.client_bytes) >> 32)
    i = locate(t, hash, ident.text, ident.client_bytes)
    led_here = t.cells[i].slot == slot + 1
    if led_here:
        remove(t, i)
    ident_free(t, slot)
    return led_here


def allocations() -> tuple:
    """(allocated, freed): blocks of memory, since the module was loaded."""
    return allocated, freed


def siphash13(bytes data not None, uint64_t seed0, uint64_t seed1):
    cdef uint64_t[2] seed
    seed[0] = seed0
    seed[1] = seed1
    return siphash(seed, <const uint8_t *>PyBytes_AS_STRING(data), len(data))


cdef class Table:
    """The table for Python: tests and benchmarks. The engine uses the C functions."""

    cdef table_t table

    def __cinit__(self, uint32_t capacity, uint64_t seed0=0, uint64_t seed1=0):
        table_init(&self.table, capacity, seed0, seed1)

    def __dealloc__(self):
        table_free(&self.table)

    def __len__(self):
        return self.table.used

    @property
    def cells(self):
        return self.table.mask + 1

    @property
    def blob_bytes(self):
        return self.table.blob_bytes

    cdef int check(self, uint32_t slot) except -1:
        if slot >= self.table.capacity:
            raise IndexError("no such slot")
        return 0

    def bind(self, uint32_t slot, bytes client not None, bytes user not None=b""):
        self.check(slot)
        if len(client) > 255 or len(user) > 255:
            raise ValueError("an id is longer than 255 bytes")
        cdef int64_t earlier = table_bind(&self.table, slot,
                                          <const uint8_t *>PyBytes_AS_STRING(client), <uint8_t>len(client),
                                          <const uint8_t *>PyBytes_AS_STRING(user), <uint8_t>len(user))
        if earlier == -2:
            raise MemoryError()
        return earlier

    def find(self, bytes client not None):
        return table_find(&self.table, <const uint8_t *>PyBytes_AS_STRING(client), len(client))

    def unbind(self, uint32_t slot):
        self.check(slot)
        return bool(table_unbind(&self.table, slot))

    def ids(self, uint32_t slot):
        self.check(slot)
        cdef const ident_t *ident = self.table.idents[slot]
        if ident == NULL:
            return None
        return (PyBytes_FromStringAndSize(<const char *>ident.text, ident.client_bytes),
                PyBytes_FromStringAndSize(<const char *>ident.text + ident.client_bytes, ident.user_bytes))
