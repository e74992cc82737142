# What clients send: connections, heads, frames.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zpush._fast.connections cimport Connections
from zpush._fast.frames cimport frame_event, frame_reader
from zpush._fast.sys cimport epoll_event, sockaddr_storage

cdef enum:
    READ_BYTES = 65536           # the worker's one read buffer
    EVENTS_A_CALL = 64
    HEADS_A_CALL = 32            # 20 µs each with what Python does: a call takes a millisecond, at most two
    LEFTOVER_BYTES = 16384       # kept behind a head until the connection is open; more: reading pauses

cdef class Inbound(Connections):
    cdef uint8_t *buffer         # owned
    cdef frame_reader scratch    # for connections at a message boundary
    cdef bint echo
    cdef list listeners
    cdef bint listeners_rest     # listeners that cannot accept now are out of the set until the next sweep
    cdef uint32_t heads_left     # of HEADS_A_CALL

    cdef int take_events(self) except -1
    cdef int on_event(self, const epoll_event *event) except -1
    cdef int accept_some(self, int listener) except -1
    cdef int rest(self) except -1
    cdef int adopt(self, int fd, sockaddr_storage *address) except -1
    cdef int on_writable(self, uint32_t slot) except -1
    cdef int on_paused(self, uint32_t slot, uint32_t events) except -1
    cdef int read(self, uint32_t slot) except -1
    cdef int vet(self, uint32_t slot) except -1
    cdef int take_address(self, uint32_t slot) except -1
    cdef int read_proxy(self, uint32_t slot, const uint8_t *data, size_t size) except -1
    cdef int read_head(self, uint32_t slot, const uint8_t *data, size_t size) except -1
    cdef int ask(self, uint32_t slot, const uint8_t *head, size_t head_bytes, const uint8_t *rest, size_t rest_bytes) except -1
    cdef int keep(self, uint32_t slot, const uint8_t *data, size_t size) except -1
    cdef int refuse(self, uint32_t slot, const char *response, uint32_t result) except -1
    cdef int read_frames(self, uint32_t slot, uint8_t *data, size_t size) except -1
    cdef int on_frame(self, uint32_t slot, const frame_event *event) except -1
    cdef int answer(self, uint32_t slot, uint8_t opcode, const frame_event *event) except -1
    cdef int on_close_frame(self, uint32_t slot, const frame_event *event) except -1
    cdef int store_partial(self, uint32_t slot, frame_reader *reader) except -1
    cdef int take_leftover(self, uint32_t slot) except -1
    cdef int watch_listener(self, int fd) except -1
