# Who is in which slot: client id -> slot (open addressing, seeded hash), slot -> ids.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef struct ident_t:             # one blob a bound slot, malloc'ed: both ids behind the two lengths
    uint8_t client_bytes
    uint8_t user_bytes
    uint8_t text[1]              # client id, then user id; not terminated

cdef struct cell_t:
    uint32_t hash                # upper half of the key's hash
    uint32_t slot                # slot + 1; 0 = empty

cdef struct table_t:
    ident_t **idents             # owned, each too; by slot, NULL where unbound
    cell_t *cells                # owned
    uint64_t mask                # cells - 1, a power of two less one
    uint64_t used
    uint64_t seed[2]
    uint32_t capacity            # slots
    uint64_t blob_bytes          # malloc'ed for idents, for the engine's memory gauge

cdef int table_init(table_t *t, uint32_t capacity, uint64_t seed0, uint64_t seed1) except -1
cdef void table_free(table_t *t) noexcept nogil
# Binds ids to a slot; the id now leads to this slot (last bind wins). Returns the slot the id led to before, or -1.
# -2: out of memory. The earlier slot keeps its ident until it is unbound.
cdef int64_t table_bind(table_t *t, uint32_t slot, const uint8_t *client, uint8_t client_bytes,
                        const uint8_t *user, uint8_t user_bytes) noexcept nogil
cdef int64_t table_find(const table_t *t, const uint8_t *client, size_t client_bytes) noexcept nogil   # slot or -1
# Frees the slot's ident; the id stops leading here only if it still did. True if it did.
cdef bint table_unbind(table_t *t, uint32_t slot) noexcept nogil
cdef uint64_t siphash(const uint64_t *seed, const uint8_t *data, size_t size) noexcept nogil   # SipHash-1-3
