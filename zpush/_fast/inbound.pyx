"""What clients send: accepts, PROXY headers, heads up to their blank line, frames.

Rules. One read of at most READ_BYTES per event, into the worker's one buffer; epoll is level-triggered and
says when there is more, so no client keeps the others waiting. A head is only searched for its end and
held against its limits here; Python parses it. A connection owns memory for input only while a head,
a frame or a message is partial. Nothing here trusts a length that a client merely claims, nor an address
unless a trusted proxy names it; whoever the peer then is, is counted as soon as it is known.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset, strlen

from zpush._fast.addresses cimport ADDRESS_NO_MEMORY, ADDRESS_TAKEN, address_result, addresses_take
from zpush._fast.bucket cimport bucket_spend
from zpush._fast.connections cimport CLOSE_ABNORMAL, CLOSE_TOO_MANY, CLOSE_WAIT_S, LINGER_S, Connections
from zpush._fast.core cimport (
    ASKED, AWAITS_PONG, AWAITS_PROXY, BLOCKED, CLOSING, COUNTED, DISCARD, DOOMED, FINISH, HEAD, LINGER, NO_SLOT, OPEN,
    PAUSED, PROTOCOL_SSE, PROTOCOL_V1, UNKNOWN, conn_t, core_alloc, core_count, core_dealloc, core_handle, core_random,
    core_release, core_slot, core_t, core_take, core_watch,
)
from zpush._fast.frames cimport (
    EVENT_CLOSE, EVENT_ERROR, EVENT_MESSAGE, EVENT_NEED_MORE, EVENT_NO_MEMORY, EVENT_PING, EVENT_PONG, OP_PONG,
    frame_event, frame_idle, frame_next, frame_reader, frame_reader_free, frame_release,
)
from zpush._fast.networks cimport address_from_socket, networks_hold, peer_text
from zpush._fast.outbound cimport out_append, out_drop, out_flush, out_queue
from zpush._fast.partial cimport bytes_t, free_inbound, partial_t
from zpush._fast.proxy cimport PROXY_CLIENT, PROXY_MALFORMED, PROXY_NEED_MORE, proxy_header, proxy_parse, proxy_result
from zpush._fast.sys cimport (
    EAGAIN, ECONNABORTED, EINTR, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR,
    EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, close, epoll_ctl, epoll_event,
    epoll_wait, errno, recv, sockaddr, sockaddr_storage, socklen_t,
)

cdef uint64_t LISTENER = <uint64_t>1 << 63  # no handle has this bit: generations have 31

cdef const char *OUT_OF_BUFFERS = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)
cdef const char *TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
cdef const char *TOO_MANY = (
    b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: %u\r\nContent-Length: 0\r\n\r\n"
)


cdef class Inbound(Connections):
    def __cinit__(self, handler, uint32_t capacity, limits, memoryview cells, columns, call_soon, encode_v1,
                  bint echo=False, uint64_t seed=0):
        self.echo = echo
        self.listeners = []
        self.buffer = <uint8_t *>malloc(READ_BYTES)
        if self.buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.buffer)
        frame_reader_free(&self.scratch)

    cdef int watch_listener(self, int fd) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = LISTENER | <uint32_t>fd
        if epoll_ctl(self.core.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef int take_events(self) except -1:
        """What is over the bounds is told again in the loop's next turn: epoll is level-triggered."""
        cdef epoll_event events[EVENTS_A_CALL]
        cdef int count = epoll_wait(self.core.epoll_fd, events, EVENTS_A_CALL, 0)
        cdef int i
        self.heads_left = HEADS_A_CALL
        for i in range(count):
            if not events[i].data.u64 & LISTENER:
                self.on_event(&events[i])
        for i in range(count):
            if events[i].data.u64 & LISTENER:  # who is here already comes first
                self.accept_some(<int>(events[i].data.u64 & 0xffffffff))
        return 0

    cdef int on_event(self, const epoll_event *event) except -1:
        cdef uint32_t slot = core_slot(&self.core, event.data.u64)
        if slot == NO_SLOT:
            return 0  # ended by an earlier event of this call
        if event.events & EPOLLOUT:
            self.on_writable(slot)
        if event.events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            if core_slot(&self.core, event.data.u64) != NO_SLOT:
                if self.core.conns[slot].flags & PAUSED:
                    self.on_paused(slot, event.events)
                else:
                    self.read(slot)
        return 0

    cdef int on_writable(self, uint32_t slot) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        if not out_flush(&self.core, slot):
            return self.end(slot, conn.code or CLOSE_ABNORMAL)
        self.finish(slot)
        return 0

    cdef int on_paused(self, uint32_t slot, uint32_t events) except -1:
        """Input waits in the kernel; only the end of the connection is news."""
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.end(slot, self.core.conns[slot].code or CLOSE_ABNORMAL)
        return 0

    cdef int accept_some(self, int listener) except -1:
        cdef sockaddr_storage address
        cdef socklen_t size
        cdef int fd
        cdef uint32_t _
        for _ in range(self.heads_left):
            size = sizeof(address)
            fd = accept4(listener, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.adopt(fd, &address)
            elif errno == EINTR or errno == ECONNABORTED:
                continue
            elif errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM or errno == EINVAL:
                # No descriptor is free, or the master took the listener out of its group for now (shutdown):
                # level-triggered, it would spin. The next sweep looks again.
                return self.rest()
            else:
                return 0
        return 0

    cdef int rest(self) except -1:
        self.listeners_rest = True
        for fd in self.listeners:
            epoll_ctl(self.core.epoll_fd, EPOLL_CTL_DEL, fd, NULL)
        return 0

    cdef int adopt(self, int fd, sockaddr_storage *address) except -1:
        """A new socket, in state HEAD; without a slot for it, it is closed."""
        cdef uint32_t slot = core_take(&self.core)
        cdef conn_t *conn
        cdef epoll_event event
        core_count(&self.core, self.core.columns.accepted, 1)
        if slot == NO_SLOT:
            core_count(&self.core, self.core.columns.handshakes_full, 1)
            close(fd)
            return 0
        conn = &self.core.conns[slot]
        conn.fd = fd
        address_from_socket(conn.peer, &conn.peer_port, address)
        event.events = EPOLLIN | EPOLLRDHUP
        event.data.u64 = core_handle(&self.core, slot)
        if epoll_ctl(self.core.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            self.decide(slot, self.core.columns.handshakes_unavailable)
            return self.end(slot, CLOSE_ABNORMAL)
        self.arm_liveness(slot, self.core.limits.handshake_s)
        if self.core.limits.vets_peers:
            self.vet(slot)
        return self.read(slot)  # the head is mostly there already

    cdef int read(self, uint32_t slot) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        cdef ssize_t size
        if conn.state == HEAD and not self.heads_left:
            return 0
        size = recv(conn.fd, self.buffer, READ_BYTES, 0)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0:
            if conn.flags & AWAITS_PROXY and conn.inbound != NULL:
                self.decide(slot, self.core.columns.handshakes_proxy)  # half a PROXY header
            return self.end(slot, conn.code or CLOSE_ABNORMAL)
        core_count(&self.core, self.core.columns.received_bytes, size)
        if conn.flags & DISCARD or conn.state == LINGER:
            return 0
        if conn.state == HEAD:
            if conn.flags & AWAITS_PROXY:
                return self.read_proxy(slot, self.buffer, size)
            return self.read_head(slot, self.buffer, size)
        if conn.state == ASKED:
            return self.keep(slot, self.buffer, size)
        if conn.protocol == PROTOCOL_SSE:
            return 0  # an event stream's client has nothing more to say
        return self.read_frames(slot, self.buffer, size)

    # ---- whose connection it is

    cdef int vet(self, uint32_t slot) except -1:
        """A new connection: either its proxy has to say for whom it speaks, or the peer's own limits apply."""
        cdef conn_t *conn = &self.core.conns[slot]
        if not networks_hold(&self.core.trusted, conn.peer):
            return self.take_address(slot)
        if self.core.limits.proxy_protocol:
            conn.flags |= AWAITS_PROXY
        return 0  # a proxy has no limits of its own: the clients behind it have

    cdef int take_address(self, uint32_t slot) except -1:
        """Counts the peer; 429 where it has its share already."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef address_result result
        cdef uint32_t window_s = self.core.addresses.limits.begun.window_s
        cdef char answer[128]
        if not (self.core.addresses.limits.open or self.core.addresses.limits.begun.amount):
            return 0
        result = addresses_take(&self.core.addresses, conn.peer, self.core.now_s)
        if result == ADDRESS_TAKEN:
            conn.flags |= COUNTED
        elif result != ADDRESS_NO_MEMORY:
            # Whoever was refused together should not come back together.
            snprintf(answer, sizeof(answer), TOO_MANY, window_s + core_random(&self.core, window_s + 1))
            self.refuse(slot, answer, self.core.columns.handshakes_address_limited)
        return 0

    cdef int read_proxy(self, uint32_t slot, const uint8_t *data, size_t size) except -1:
        """The PROXY header, before anything else; what follows it is the head."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes_t *held = <bytes_t *>conn.inbound
        cdef proxy_header header
        cdef proxy_result result
        cdef bytes rest
        if held != NULL:
            self.keep(slot, data, size)
            if conn.state != HEAD:
                return 0  # out of memory, and gone
            held = <bytes_t *>conn.inbound
            data = held.data
            size = held.size
        result = proxy_parse(data, size, &header)
        if result == PROXY_NEED_MORE:
            return self.keep(slot, data, size) if held == NULL else 0
        if result == PROXY_MALFORMED:
            self.decide(slot, self.core.columns.handshakes_proxy)
            return self.end(slot, CLOSE_ABNORMAL)
        rest = PyBytes_FromStringAndSize(<char *>data + header.size, size - header.size)
        free_inbound(&self.core, slot)
        conn.flags &= ~AWAITS_PROXY
        if result == PROXY_CLIENT:
            memcpy(conn.peer, header.address, sizeof(header.address))
            conn.peer_port = header.port
            if not networks_hold(&self.core.trusted, conn.peer):
                self.take_address(slot)
        if rest and conn.state == HEAD:
            return self.read_head(slot, <const uint8_t *>PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
        return 0

    # ---- heads

    cdef int read_head(self, uint32_t slot, const uint8_t *data, size_t size) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes_t *held = <bytes_t *>conn.inbound
        cdef size_t before = held.size if held != NULL else 0
        cdef ssize_t end
        if held != NULL:
            self.keep(slot, data, size)
            if conn.state != HEAD:
                return 0  # out of memory, and gone
            held = <bytes_t *>conn.inbound
            data = held.data
            size = held.size
        end = _head_end(data, size, before - 3 if before > 3 else 0)
        if (end if end >= 0 else <ssize_t>size) > <ssize_t>self.core.limits.head_bytes or (
            _lines(data, end if end >= 0 else <ssize_t>size) > self.core.limits.head_fields + 2
        ):
            return self.refuse(slot, TOO_LARGE, self.core.columns.handshakes_too_large)
        if end >= 0:
            return self.ask(slot, data, end, data + end, size - end)
        if held == NULL:
            return self.keep(slot, data, size)
        return 0

    cdef int ask(self, uint32_t slot, const uint8_t *head, size_t head_bytes, const uint8_t *rest,
                 size_t rest_bytes) except -1:
        """A whole head: Python decides what becomes of it. What came behind it is kept."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes request = PyBytes_FromStringAndSize(<char *>head, head_bytes)
        cdef bytes leftover = PyBytes_FromStringAndSize(<char *>rest, rest_bytes) if rest_bytes else b""
        free_inbound(&self.core, slot)
        conn.state = ASKED
        self.heads_left -= 1
        if rest_bytes:
            self.keep(slot, leftover, rest_bytes)
        if conn.state == ASKED:
            self.on_request(core_handle(&self.core, slot), request, peer_text(conn.peer, conn.peer_port))
        return 0

    cdef int keep(self, uint32_t slot, const uint8_t *data, size_t size) except -1:
        """Appends to what is held of a head, or behind one. Past LEFTOVER_BYTES behind a head, reading pauses."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes_t *held = <bytes_t *>conn.inbound
        cdef bytes_t *grown
        cdef size_t have = held.size if held != NULL else 0
        cdef size_t room
        if held == NULL or held.room - have < size:
            room = have + size + have // 2
            grown = <bytes_t *>core_alloc(&self.core, sizeof(bytes_t) + room)
            if grown == NULL:
                self.decide(slot, self.core.columns.handshakes_unavailable)
                return self.end(slot, CLOSE_ABNORMAL)
            if held != NULL:
                memcpy(grown.data, held.data, have)
            free_inbound(&self.core, slot)
            grown.room = room
            conn.inbound = held = grown
            self.core.partial += room
        memcpy(held.data + have, data, size)
        held.size = have + size
        if conn.state == HEAD and self.core.unsent + self.core.partial > self.core.limits.unsent_budget_bytes:
            return self.refuse(slot, OUT_OF_BUFFERS, self.core.columns.handshakes_unavailable)
        if conn.state == ASKED and held.size >= LEFTOVER_BYTES and not conn.flags & PAUSED:
            conn.flags |= PAUSED
            core_watch(&self.core, slot)
        return 0

    cdef int take_leftover(self, uint32_t slot) except -1:
        """The connection has just become OPEN: frames may have come right behind the head."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes_t *held = <bytes_t *>conn.inbound
        if conn.flags & PAUSED:
            conn.flags &= ~PAUSED
            core_watch(&self.core, slot)
        if held == NULL:
            return 0
        conn.inbound = NULL
        self.core.partial -= held.room
        try:
            if conn.protocol != PROTOCOL_SSE:
                self.read_frames(slot, held.data, held.size)
        finally:
            core_dealloc(&self.core, held)
        return 0

    cdef int refuse(self, uint32_t slot, const char *response, uint32_t result) except -1:
        """An HTTP answer, FIN, and a moment for the client to read it. result: the column that counts it."""
        cdef conn_t *conn = &self.core.conns[slot]
        free_inbound(&self.core, slot)
        out_drop(&self.core, slot)  # what was delivered in the hope of a 101
        self.decide(slot, result)
        conn.flags = (conn.flags | FINISH | DISCARD) & ~PAUSED
        if not out_append(&self.core, slot, <const uint8_t *>response, strlen(response)):
            conn.flags |= DOOMED
        core_watch(&self.core, slot)
        self.arm_liveness(slot, LINGER_S)
        out_queue(&self.core, slot)
        return self.schedule()

    # ---- frames

    cdef int read_frames(self, uint32_t slot, uint8_t *data, size_t size) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        cdef partial_t *partial = <partial_t *>conn.inbound
        cdef frame_reader *reader = &partial.reader if partial != NULL else &self.scratch
        cdef uint64_t handle = core_handle(&self.core, slot)
        cdef size_t room = reader.message_room
        cdef size_t used
        cdef frame_event event
        while size:
            frame_next(reader, data, size, &self.core.limits.frames, &event, &used)
            data += used
            size -= used
            if partial != NULL:
                self.core.partial += reader.message_room - room
                room = reader.message_room
            if event.kind == EVENT_NEED_MORE:
                break
            self.on_frame(slot, &event)
            if core_slot(&self.core, handle) == NO_SLOT:
                if partial == NULL:
                    frame_reader_free(&self.scratch)
                return 0
            if event.kind == EVENT_MESSAGE:
                frame_release(reader)
            if partial != NULL and frame_idle(reader):
                partial.since_s = self.core.now_s  # what comes next is another message
            if conn.flags & DISCARD:
                break
        if partial != NULL:
            self.core.partial += reader.message_room - room
        return self.store_partial(slot, reader)

    cdef int store_partial(self, uint32_t slot, frame_reader *reader) except -1:
        """The connection keeps the reader's state only while something is partial, and not forever."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef partial_t *partial = <partial_t *>conn.inbound
        if frame_idle(reader) or conn.flags & DISCARD:
            if partial != NULL:
                free_inbound(&self.core, slot)
            else:
                frame_reader_free(reader)
            return 0
        if partial == NULL:
            partial = <partial_t *>core_alloc(&self.core, sizeof(partial_t))
            if partial == NULL:
                frame_reader_free(reader)
                return self.end(slot, CLOSE_ABNORMAL)
            partial.since_s = self.core.now_s
            partial.reader = reader[0]
            memset(reader, 0, sizeof(frame_reader))
            conn.inbound = partial
            self.core.partial += sizeof(partial_t) + partial.reader.message_room
        if self.core.now_s - partial.since_s > self.core.limits.keepalive_s + self.core.limits.pong_s:
            free_inbound(&self.core, slot)
            return self.start_closing(slot, 1008, b"message not complete in time", 28, True)
        if self.core.unsent + self.core.partial > self.core.limits.unsent_budget_bytes:
            free_inbound(&self.core, slot)
            return self.start_closing(slot, 1013, b"server is out of buffers", 24, True)
        return 0

    cdef int on_frame(self, uint32_t slot, const frame_event *event) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        core_count(&self.core, self.core.columns.frames_received, 1)
        if event.kind == EVENT_NO_MEMORY:
            return self.end(slot, CLOSE_ABNORMAL)
        if event.kind == EVENT_CLOSE:
            return self.on_close_frame(slot, event)
        if conn.state != OPEN:
            if event.kind == EVENT_ERROR:
                conn.flags |= DISCARD | FINISH
                out_queue(&self.core, slot)
            return 0  # after our close frame only the client's own matters (RFC 6455 §5.5.1)
        if event.kind == EVENT_ERROR:
            core_count(&self.core, self.core.columns.fragments_limited, event.fragmented)
            return self.start_closing(slot, event.code, <const uint8_t *>event.reason, strlen(event.reason), True)
        conn.flags &= ~AWAITS_PONG
        self.arm_keepalive(slot)
        if event.kind != EVENT_PONG and not bucket_spend(
            &conn.inbound_bucket, self.core.limits.inbound, self.core.now_s, 1
        ):
            core_count(&self.core, self.core.columns.inbound_limited, 1)
            return self.start_closing(slot, CLOSE_TOO_MANY, b"too many messages", 17, True)
        if event.kind == EVENT_PING:
            self.answer(slot, OP_PONG, event)
        elif event.kind == EVENT_MESSAGE:
            core_count(&self.core, self.core.columns.messages_received, 1)
            if conn.protocol == PROTOCOL_V1 or conn.flags & UNKNOWN:
                self.on_message(core_handle(&self.core, slot), event.opcode,
                                PyBytes_FromStringAndSize(<char *>event.payload, event.payload_bytes))
            elif self.echo:
                self.answer(slot, event.opcode, event)
        return 0

    cdef int answer(self, uint32_t slot, uint8_t opcode, const frame_event *event) except -1:
        """A pong or an echo. While it cannot leave, nothing more is read: the client paces itself."""
        cdef conn_t *conn = &self.core.conns[slot]
        self.put_frame(slot, opcode, event.payload, event.payload_bytes)
        if conn.out != NULL and conn.out.end - conn.out.begin > READ_BYTES and not conn.flags & PAUSED:
            out_flush(&self.core, slot)
            if conn.flags & BLOCKED:
                conn.flags |= PAUSED
                core_watch(&self.core, slot)
        return 0

    cdef int on_close_frame(self, uint32_t slot, const frame_event *event) except -1:
        """RFC 6455 §5.5.1: the answer echoes the code; then FIN."""
        cdef conn_t *conn = &self.core.conns[slot]
        if conn.state == OPEN:
            return self.start_closing(slot, event.code, NULL, 0, True)
        conn.flags |= FINISH | DISCARD
        self.arm_liveness(slot, CLOSE_WAIT_S)
        out_queue(&self.core, slot)
        return self.schedule()


cdef ssize_t _head_end(const uint8_t *data, size_t size, size_t begin) noexcept:
    """The length of the head with its blank line, or -1."""
    cdef const uint8_t *found
    while begin + 4 <= size:
        found = <const uint8_t *>memchr(data + begin, 13, size - begin - 3)
        if found == NULL:
            return -1
        if found[1] == 10 and found[2] == 13 and found[3] == 10:
            return found - data + 4
        begin = found - data + 1
    return -1


cdef uint32_t _lines(const uint8_t *data, ssize_t size) noexcept:
    cdef uint32_t count = 0
    cdef ssize_t i
    for i in range(size):
        count += data[i] == 10
    return count
