# The engine's state in C: connections in a slab, and what all of its parts share.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from zpush._fast.addresses cimport addresses_t
from zpush._fast.bucket cimport rate_t
from zpush._fast.frames cimport frame_limits
from zpush._fast.networks cimport networks_t
from zpush._fast.table cimport table_t
from zpush._fast.wheel cimport wheel_t

cdef enum conn_state:
    FREE = 0
    HEAD = 1                     # reading the request's head
    ASKED = 2                    # Python decides; input is kept, not read as frames
    OPEN = 3
    CLOSING = 4                  # our close frame is on its way; waits for the client's, or a deadline
    LINGER = 5                   # an answer is on its way; then FIN, then waits for the client's FIN, or a deadline

cdef enum conn_protocol:
    PROTOCOL_RAW = 1
    PROTOCOL_V1 = 2
    PROTOCOL_SSE = 3

cdef enum conn_flag:
    BOUND = 1                    # has an ident in the table; on_close is still to be called
    DIRTY = 2                    # its lease has to be written again
    AWAITS_PONG = 4
    GOING = 8                    # was asked to close first
    EXPIRES = 16                 # the age is the token's
    DRAINED = 32                 # the age is a drain's
    QUEUED = 64                  # stands in core.queued
    BLOCKED = 128                # stands in core.blocked; EPOLLOUT is armed
    PAUSED = 256                 # EPOLLIN is off
    DISCARD = 512                # input is read and thrown away
    FINISH = 1024                # FIN once the write buffer is empty
    UNKNOWN = 4096               # open, but nobody has said who it is
    DOOMED = 2048                # the socket failed in mid-call; ended at the end of the engine call
    AWAITS_PROXY = 8192          # in HEAD: a PROXY header has to come first
    COUNTED = 16384              # core.addresses counts it under its peer

cdef struct mark_t:              # a message in a write buffer whose outcome is not known yet
    int64_t end                  # behind its last byte, counted as conn_t.taken is
    uint64_t token

cdef struct out_t:               # one malloc: header and bytes
    size_t begin                 # first unsent byte in data
    size_t end                   # behind the last
    size_t room
    mark_t *marks                # owned; NULL while all outcomes are known
    uint32_t marks_begin
    uint32_t marks_end
    uint32_t marks_room
    int64_t watched              # the place, counted as conn_t.taken is, up to which all was here at since_s
    uint32_t since_s             # what is unsent in front of `watched` came before this second
    uint8_t data[1]

cdef struct conn_t:              # 88 bytes; in this order no padding
    int32_t fd
    uint32_t generation          # never 0; one more at each release; 31 bits
    uint64_t epoch
    out_t *out                   # owned; NULL while nothing is unsent
    int64_t taken                # bytes the kernel took so far; what goes in front of others counts below 0
    void *inbound                # owned; bytes_t in HEAD and ASKED, partial_t when OPEN; NULL at a boundary
    uint32_t index               # its place in core.blocked; the next free slot + 1 while FREE
    uint32_t age_more_s          # what is left of an age longer than the wheel
    uint16_t flags
    uint16_t code                # close code it ends with
    uint8_t state
    uint8_t protocol
    uint16_t peer_port           # host order
    uint64_t inbound_bucket      # of limits.inbound
    uint64_t outbound_bucket     # of limits.outbound
    uint8_t peer[16]             # IPv6 or v4-mapped

cdef struct slots_t:             # a growable array of slots
    uint32_t *slots              # owned
    uint32_t count
    uint32_t room

cdef struct settled_t:
    uint64_t token
    uint8_t outcome

cdef struct columns_t:           # column numbers of this process's scoreboard row
    uint32_t accepted, received_bytes, sent_bytes, frames_received, messages_received, pings_sent
    uint32_t go_aways_sent, sends, allocated, freed, unsent_bytes, memory_bytes
    uint32_t connections_websocket, connections_sse, connections_unknown
    uint32_t handshakes_ok, handshakes_aborted, handshakes_timeout, handshakes_too_large, handshakes_full
    uint32_t handshakes_replaced, handshakes_draining, handshakes_unavailable, handshakes_proxy, handshakes_address_limited
    uint32_t inbound_limited, outbound_limited, fragments_limited
    uint32_t closes_other

cdef struct limits_t:
    rate_t inbound
    rate_t outbound
    uint32_t head_bytes
    uint32_t head_fields
    uint32_t handshake_s
    uint32_t keepalive_s
    uint32_t pong_s
    uint32_t grace_s
    uint32_t unsent_age_s
    uint64_t unsent_bytes
    uint64_t unsent_budget_bytes
    bint drop_newest             # slow_consumer = "drop"
    bint proxy_protocol          # trusted networks send a PROXY header first
    bint vets_peers              # something is to be done with a peer's address before its head is read
    frame_limits frames

cdef struct core_t:
    conn_t *conns                # owned; calloc'ed whole, so untouched pages cost nothing
    uint32_t capacity
    uint32_t high                # slots ever used
    uint32_t used
    uint32_t free_slot           # head of the free list, slot + 1; 0 = none
    uint32_t now_s               # seconds swept so far
    int epoll_fd
    table_t table
    addresses_t addresses
    networks_t trusted           # proxies, whose word about a client's address is taken
    wheel_t liveness
    wheel_t age
    limits_t limits
    columns_t columns
    uint64_t *cells              # borrowed: the scoreboard row
    slots_t queued               # connections with something to flush
    slots_t blocked              # connections whose kernel buffer is full
    settled_t *settled           # owned
    uint32_t settled_count
    uint32_t settled_room
    uint64_t unsent              # bytes in all write buffers
    uint64_t partial             # bytes in all partial heads and messages
    uint64_t random              # xorshift64* state

cdef enum:
    NO_SLOT = 0xffffffff

cdef int core_init(core_t *c, uint32_t capacity, uint64_t seed) except -1
cdef void core_free(core_t *c) noexcept
cdef uint32_t core_take(core_t *c) noexcept              # a slot in state HEAD, or NO_SLOT
cdef void core_release(core_t *c, uint32_t slot) noexcept
cdef uint32_t core_slot(const core_t *c, uint64_t handle) noexcept       # NO_SLOT where the handle is dead
cdef uint64_t core_handle(const core_t *c, uint32_t slot) noexcept
cdef uint32_t core_random(core_t *c, uint32_t below) noexcept            # 0 <= n < below
cdef void core_count(core_t *c, uint32_t column, uint64_t amount) noexcept
cdef void core_uncount(core_t *c, uint32_t column) noexcept
cdef bint slots_add(slots_t *s, uint32_t slot) noexcept  # False: out of memory
cdef void *core_alloc(core_t *c, size_t size) noexcept   # counted malloc and free: allocated == freed at the end
cdef void core_dealloc(core_t *c, void *memory) noexcept
cdef void core_watch(core_t *c, uint32_t slot) noexcept  # tells epoll what the connection waits for
