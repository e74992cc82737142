"""The slab: every connection is a C struct in one array, named by a generational handle.

Rules. A handle is generation ‖ slot; a released slot's generation moves on, so an old handle finds
nothing. The array is allocated whole and lazily (untouched pages cost no memory), so no pointer into it
ever moves. Freed slots are reused last in, first out: the array stays as dense as the load ever was.
No Python object is held for a connection.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from zpush._fast.addresses cimport addresses_free, addresses_init
from zpush._fast.networks cimport networks_free
from zpush._fast.sys cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, EPOLLRDHUP, close, epoll_create1, epoll_ctl, epoll_event,
)
from zpush._fast.table cimport table_free, table_init
from zpush._fast.wheel cimport wheel_free, wheel_init


cdef int core_init(core_t *c, uint32_t capacity, uint64_t seed) except -1:
    c.epoll_fd = -1
    c.capacity = capacity
    c.random = seed | 1
    c.conns = <conn_t *>calloc(capacity, sizeof(conn_t))
    if c.conns == NULL:
        raise MemoryError(f"no memory for {capacity} connections")
    table_init(&c.table, capacity, seed ^ <uint64_t>0x9E3779B97F4A7C15, seed * <uint64_t>0xBF58476D1CE4E5B9 + 1)
    addresses_init(&c.addresses, capacity, seed ^ <uint64_t>0xD1B54A32D192ED03, seed * <uint64_t>0x94D049BB133111EB + 1)
    wheel_init(&c.liveness, capacity)
    wheel_init(&c.age, capacity)
    c.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if c.epoll_fd < 0:
        raise OSError("epoll_create1 failed: no descriptors left")
    return 0


cdef void core_free(core_t *c) noexcept:
    if c.epoll_fd >= 0:
        close(c.epoll_fd)
        c.epoll_fd = -1
    table_free(&c.table)
    addresses_free(&c.addresses)
    networks_free(&c.trusted)
    wheel_free(&c.liveness)
    wheel_free(&c.age)
    free(c.queued.slots)
    free(c.blocked.slots)
    free(c.settled)
    free(c.conns)
    c.conns = NULL
    c.queued.slots = c.blocked.slots = NULL
    c.settled = NULL


cdef uint32_t core_take(core_t *c) noexcept:
    cdef uint32_t slot
    cdef conn_t *conn
    if c.free_slot:
        slot = c.free_slot - 1
        c.free_slot = c.conns[slot].index
    elif c.high < c.capacity:
        slot = c.high
        c.high += 1
    else:
        return NO_SLOT
    conn = &c.conns[slot]
    if conn.generation == 0:
        conn.generation = 1
    conn.state = HEAD
    conn.index = 0
    c.used += 1
    return slot


cdef void core_release(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    # 31 bits: the highest bit of a handle stays free for epoll's other tags
    cdef uint32_t generation = (conn.generation + 1) & 0x7fffffff
    memset(conn, 0, sizeof(conn_t))
    conn.generation = generation or 1
    conn.index = c.free_slot
    c.free_slot = slot + 1
    c.used -= 1


cdef uint32_t core_slot(const core_t *c, uint64_t handle) noexcept:
    cdef uint32_t slot = <uint32_t>(handle & 0xffffffff)
    if slot >= c.high or c.conns[slot].state == FREE or c.conns[slot].generation != <uint32_t>(handle >> 32):
        return NO_SLOT
    return slot


cdef uint64_t core_handle(const core_t *c, uint32_t slot) noexcept:
    return (<uint64_t>c.conns[slot].generation << 32) | slot


cdef uint32_t core_random(core_t *c, uint32_t below) noexcept:
    # xorshift64* (Vigna 2016): jitter, not secrets
    c.random ^= c.random >> 12
    c.random ^= c.random << 25
    c.random ^= c.random >> 27
    return <uint32_t>(((c.random * <uint64_t>0x2545F4914F6CDD1D) >> 33) % below) if below else 0


cdef void core_count(core_t *c, uint32_t column, uint64_t amount) noexcept:
    c.cells[column] += amount


cdef void core_uncount(core_t *c, uint32_t column) noexcept:
    c.cells[column] -= 1


cdef bint slots_add(slots_t *s, uint32_t slot) noexcept:
    cdef uint32_t room
    cdef uint32_t *grown
    if s.count == s.room:
        room = s.room * 2 if s.room else 64
        grown = <uint32_t *>realloc(s.slots, room * sizeof(uint32_t))
        if grown == NULL:
            return False
        s.slots = grown
        s.room = room
    s.slots[s.count] = slot
    s.count += 1
    return True


cdef void *core_alloc(core_t *c, size_t size) noexcept:
    cdef void *memory = malloc(size)
    if memory != NULL:
        core_count(c, c.columns.allocated, 1)
    return memory


cdef void core_dealloc(core_t *c, void *memory) noexcept:
    if memory != NULL:
        core_count(c, c.columns.freed, 1)
        free(memory)


cdef void core_watch(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    cdef epoll_event event
    event.events = EPOLLRDHUP
    if not conn.flags & PAUSED:
        event.events |= EPOLLIN
    if conn.flags & BLOCKED:
        event.events |= EPOLLOUT
    event.data.u64 = core_handle(c, slot)
    # Fails only for a descriptor that is not in the set, which a live connection's always is.
    epoll_ctl(c.epoll_fd, EPOLL_CTL_MOD, conn.fd, &event)
