"""What time does to connections: pings, pong deadlines, go-aways, ends.

Rules. Time is a parameter: whole seconds since the last sweep. Two countdowns a connection: liveness (the
handshake, then keepalive and pong, then the closing handshake) and age (max age, the token's end or a
drain, then the grace). The client is asked to close first, so that its side holds TIME_WAIT; who has not
gone when the grace is over is closed. A connection may end two seconds before its token, and never after
it: where the token has less left than the grace, that is the grace. What a sweep finds is worked off DUE_A_TURN a turn, so that ten
thousand deadlines in one second delay nobody's message.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strlen

from zpush._fast.addresses cimport addresses_bytes, addresses_sweep
from zpush._fast.connections cimport CLOSE_ABNORMAL, CLOSE_SHUTDOWN
from zpush._fast.core cimport (
    ASKED, AWAITS_PONG, DOOMED, DRAINED, EXPIRES, FREE, GOING, HEAD, OPEN, PROTOCOL_RAW, PROTOCOL_SSE, PROTOCOL_V1,
    UNKNOWN, conn_t, core_count, core_random,
)
from zpush._fast.frames cimport OP_PING, OP_TEXT
from zpush._fast.inbound cimport READ_BYTES
from zpush._fast.outbound cimport out_append, out_queue, out_watch
from zpush._fast.sys cimport trim_heap
from zpush._fast.wheel cimport WHEEL_MAX_S, wheel_arm, wheel_left, wheel_sweep

cdef enum:
    NO_AGE_S = 0xffffffff
    CLOSE_GO_AWAY = 1000
    CLOSE_NOT_AUTHENTICATED = 4001
    CLOSE_EXPIRED = 4006

cdef const char *RAW_GO_AWAY = b"_CLOSE_"
cdef const char *SSE_GO_AWAY = b"event: goaway\ndata: _CLOSE_\n\n"
cdef const char *SSE_KEEPALIVE = b":\n\n"
cdef const char *ASKED_TOO_LONG = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)


cdef class Deadlines(Inbound):
    def __cinit__(self, handler, uint32_t capacity, *args, **kwargs):
        self.silent.slots = <uint32_t *>malloc(capacity * sizeof(uint32_t))
        self.aged.slots = <uint32_t *>malloc(capacity * sizeof(uint32_t))
        if self.silent.slots == NULL or self.aged.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.silent.slots)
        free(self.aged.slots)

    cdef int pass_time(self, uint32_t elapsed_s) except -1:
        self.core.now_s += elapsed_s
        self.unswept_s += elapsed_s
        if self.listeners_rest:
            self.listeners_rest = False
            for fd in self.listeners:
                self.watch_listener(fd)
        addresses_sweep(&self.core.addresses, self.core.now_s)
        self.expire_unsent()
        self.core.cells[self.core.columns.unsent_bytes] = self.core.unsent
        self.core.cells[self.core.columns.memory_bytes] = self.footprint()
        self.give_back(self.core.cells[self.core.columns.memory_bytes])
        if self.silent.done < self.silent.count or self.aged.done < self.aged.count:
            return 0
        self.silent.done = self.aged.done = 0
        self.silent.count = wheel_sweep(&self.core.liveness, self.core.high, self.unswept_s, self.silent.slots)
        self.aged.count = wheel_sweep(&self.core.age, self.core.high, self.unswept_s, self.aged.slots)
        self.unswept_s = 0
        return 0

    cdef bint work_off(self) except? False:
        """At most DUE_A_TURN of what the sweep found. True: more is left."""
        cdef uint32_t slot
        cdef uint32_t budget = DUE_A_TURN
        while budget and self.silent.done < self.silent.count:
            slot = self.silent.slots[self.silent.done]
            self.silent.done += 1
            budget -= 1
            # It may have been released, or touched, since the sweep found it.
            if self.core.conns[slot].state != FREE and wheel_left(&self.core.liveness, slot) == 0:
                self.on_silent(slot)
        while budget and self.aged.done < self.aged.count:
            slot = self.aged.slots[self.aged.done]
            self.aged.done += 1
            budget -= 1
            if self.core.conns[slot].state == OPEN and wheel_left(&self.core.age, slot) == 0:
                self.on_aged(slot)
        return self.silent.done < self.silent.count or self.aged.done < self.aged.count

    cdef int on_silent(self, uint32_t slot) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        if conn.state == HEAD:
            self.decide(slot, self.core.columns.handshakes_timeout)
            return self.end(slot, CLOSE_ABNORMAL)
        if conn.state == ASKED:
            return self.drop_asked(slot)
        if conn.state != OPEN:
            return self.end(slot, conn.code or CLOSE_ABNORMAL)
        if conn.protocol == PROTOCOL_SSE:
            self.arm_keepalive(slot)
            return self.put_comment(slot)
        if conn.flags & AWAITS_PONG:
            return self.end(slot, CLOSE_ABNORMAL)  # a half-open socket: nobody would read a close frame
        conn.flags |= AWAITS_PONG
        self.arm_liveness(slot, self.core.limits.pong_s)
        core_count(&self.core, self.core.columns.pings_sent, 1)
        self.put_frame(slot, OP_PING, NULL, 0)
        return 0

    cdef int drop_asked(self, uint32_t slot) except -1:
        """Python has not answered within the handshake's time: authentication hangs."""
        cdef object farewell = self.unbind(slot, CLOSE_ABNORMAL)
        self.refuse(slot, ASKED_TOO_LONG, self.core.columns.handshakes_timeout)
        if farewell is not None:
            self.on_close(*farewell)
        return 0

    cdef int put_comment(self, uint32_t slot) except -1:
        """Keeps proxies from closing an idle stream; TCP_USER_TIMEOUT finds the dead client."""
        if self.core.conns[slot].out == NULL:  # unsent bytes keep the connection busy anyway
            if not out_append(&self.core, slot, <const uint8_t *>SSE_KEEPALIVE, strlen(SSE_KEEPALIVE)):
                self.core.conns[slot].flags |= DOOMED
            out_queue(&self.core, slot)
            core_count(&self.core, self.core.columns.pings_sent, 1)
        return 0

    cdef void arm_age(self, uint32_t slot, uint32_t seconds) noexcept:
        """Ages longer than the wheel are armed in parts. 0: none, which is armed again and again: a slot without a
        countdown could not be told from one that came due."""
        cdef uint32_t age_s = seconds if seconds else <uint32_t>NO_AGE_S
        cdef uint32_t part = min(age_s, <uint32_t>WHEEL_MAX_S - 1)
        self.core.conns[slot].age_more_s = age_s if age_s == NO_AGE_S else age_s - part
        wheel_arm(&self.core.age, slot, part + 1)

    cdef int arm_end(self, uint32_t slot, uint32_t end_s) except -1:
        """The token ends in end_s. What is left then stands in age_more_s until the client is asked to go."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef uint32_t part
        conn.flags |= EXPIRES
        if end_s <= self.core.limits.grace_s:
            return self.ask_to_go(slot, end_s)
        part = min(end_s - self.core.limits.grace_s, <uint32_t>WHEEL_MAX_S - 1)
        conn.age_more_s = end_s - part
        wheel_arm(&self.core.age, slot, part)
        return 0

    cdef int on_aged(self, uint32_t slot) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bint ends = conn.flags & EXPIRES and not conn.flags & GOING
        if ends and conn.age_more_s > self.core.limits.grace_s and not conn.flags & DRAINED:
            return self.arm_end(slot, conn.age_more_s)
        if ends:
            return self.ask_to_go(slot, min(conn.age_more_s, self.core.limits.grace_s))
        if conn.age_more_s:
            self.arm_age(slot, conn.age_more_s)
            return 0
        if conn.flags & UNKNOWN and not conn.flags & DRAINED:
            return self.start_closing(slot, CLOSE_NOT_AUTHENTICATED, b"not authenticated in time", 25, False)
        if not conn.flags & GOING:
            return self.ask_to_go(slot, self.core.limits.grace_s)
        if conn.flags & DRAINED:
            return self.start_closing(slot, CLOSE_SHUTDOWN, b"go-away grace over", 18, False)
        if conn.flags & EXPIRES:
            return self.start_closing(slot, CLOSE_EXPIRED, b"the token has expired", 21, False)
        return self.start_closing(slot, CLOSE_GO_AWAY, b"go-away grace over", 18, False)

    cdef int ask_to_go(self, uint32_t slot, uint32_t grace_s) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        cdef char text[128]
        cdef int size
        cdef const char *reason = b"max_age"
        conn.flags |= GOING
        if conn.flags & EXPIRES:
            conn.age_more_s = 0
            wheel_arm(&self.core.age, slot, grace_s)  # rather early than late
        else:
            self.arm_age(slot, grace_s)
        core_count(&self.core, self.core.columns.go_aways_sent, 1)
        if conn.protocol == PROTOCOL_RAW:
            self.put_frame(slot, OP_TEXT, <const uint8_t *>RAW_GO_AWAY, strlen(RAW_GO_AWAY))
        elif conn.protocol == PROTOCOL_SSE:
            if not out_append(&self.core, slot, <const uint8_t *>SSE_GO_AWAY, strlen(SSE_GO_AWAY)):
                conn.flags |= DOOMED
            out_queue(&self.core, slot)
        else:
            if conn.flags & DRAINED:
                reason = b"shutdown"
            elif conn.flags & EXPIRES:
                reason = b"token_expires"
            # Within the first half of the grace, so that the client still closes first.
            size = snprintf(text, sizeof(text), b'{"go_away":{"reason":"%s","reconnect_in_ms":%u}}', reason,
                            core_random(&self.core, grace_s * 500))
            self.put_frame(slot, OP_TEXT, <const uint8_t *>text, size)
        return 0

    cdef int expire_unsent(self) except -1:
        """Who has a byte that waits for the unsent age is a slow consumer, however little is left.

        One place in each buffer is watched: once it is sent, the next is the buffer's end of then. So a byte is found
        between one and two unsent ages after it came, and who reads on is not ended for never having it all.
        """
        cdef uint32_t i = self.core.blocked.count
        cdef uint32_t slot
        cdef conn_t *conn
        while i > 0:
            i -= 1
            if i >= self.core.blocked.count:
                continue  # on_close closed others too
            slot = self.core.blocked.slots[i]
            conn = &self.core.conns[slot]
            if conn.state != OPEN:
                continue  # on its way out, which has a deadline of its own
            if conn.taken >= conn.out.watched:
                out_watch(&self.core, conn)
            elif conn.out.since_s + self.core.limits.unsent_age_s <= self.core.now_s:
                self.give_up(slot)
        return 0

    cdef void give_back(self, uint64_t held_bytes) noexcept:
        """What the engine has freed lies between what others hold, and malloc keeps it unless it is asked.

        Asking costs 0.13 ms a MiB that goes back, and a walk over malloc's free chunks: 2 ms for 5,000 slow consumers
        that have left. Less than TRIM_BYTES is soon used again.
        """
        if held_bytes > self.peak_bytes:
            self.peak_bytes = held_bytes
        elif self.peak_bytes - held_bytes >= TRIM_BYTES:
            trim_heap()
            self.peak_bytes = held_bytes

    cdef uint64_t footprint(self) noexcept:
        """Bytes of user memory the engine holds: what was ever touched of its arrays, ids, partial input, unsent output."""
        cdef uint64_t a_slot = sizeof(conn_t) + 2 * sizeof(uint16_t) + sizeof(void *) + 2 * sizeof(uint32_t)
        return (self.core.high * a_slot + (self.core.table.mask + 1) * 8 + self.core.table.blob_bytes
                + addresses_bytes(&self.core.addresses) + self.core.partial + self.core.unsent + READ_BYTES)
