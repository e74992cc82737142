"""The life of a connection, from the slab to the slab.

Rules. HEAD → ASKED → OPEN → CLOSING → gone, or HEAD → ASKED → LINGER → gone for an HTTP answer. Whoever
leaves HEAD or ASKED counts one result of its handshake: `decide` does, or its end does, as aborted. Whoever
leaves OPEN leaves the table in the same step, so nothing is delivered to a closing connection. Sockets
that fail in the middle of a call are only marked DOOMED; they end in flush_queued, where no caller holds
a pointer to them. Python is called last, when the C state is consistent, and may call back in.
A socket is closed only after FIN and the client's own FIN, or a deadline: closing with unread input would
make the kernel send RST, which may destroy the close frame before the client reads it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zpush._fast.addresses cimport address_limits, addresses_limit, addresses_release
from zpush._fast.bucket cimport rate_t, rates_differ
from zpush._fast.core cimport (
    ASKED, BLOCKED, BOUND, CLOSING, COUNTED, DISCARD, DOOMED, FINISH, HEAD, LINGER, OPEN, PROTOCOL_SSE, QUEUED, UNKNOWN,
    conn_t, core_count, core_free, core_handle, core_init, core_release, core_uncount,
)
from zpush._fast.frames cimport OP_CLOSE, frame_header
from zpush._fast.networks cimport networks_set
from zpush._fast.outbound cimport out_commit, out_drop, out_flush, out_queue, out_reserve
from zpush._fast.partial cimport free_inbound
from zpush._fast.sse cimport sse_bytes, sse_write
from zpush._fast.sys cimport SHUT_WR, close, shutdown
from zpush._fast.table cimport ident_t, table_unbind
from zpush._fast.wheel cimport wheel_arm, wheel_disarm

cdef enum:
    MAX_REASON_BYTES = 123  # RFC 6455 §5.5: a control frame's payload is at most 125


cdef uint64_t[1024] NOWHERE  # counts of an engine that nobody disposed of


cdef class Connections:
    def __cinit__(self, handler, uint32_t capacity, limits, memoryview cells, columns, call_soon, encode_v1,
                  bint echo=False, uint64_t seed=0):
        cdef uint64_t[::1] view = cells
        self.core.epoll_fd = -1
        self.cells = cells
        self.core.cells = &view[0]
        self.columns = dict(columns)
        self.core.columns = self.columns  # by field name; a missing column raises ValueError
        for name, column in self.columns.items():
            if name.startswith("closes_") and name != "closes_other":
                self.codes[self.codes_known] = int(name[7:])
                self.code_columns[self.codes_known] = column
                self.codes_known += 1
        self.on_request = handler.on_request
        self.on_message = handler.on_message
        self.on_close = handler.on_close
        self.on_settled = handler.on_settled
        self.on_broadcast = handler.on_broadcast
        self.call_soon = call_soon
        core_init(&self.core, capacity, seed)
        self.read_limits(limits)

    def __dealloc__(self):
        cdef uint32_t slot
        self.core.cells = NOWHERE  # the collector may have taken the scoreboard first
        if self.core.conns != NULL:
            for slot in range(self.core.high):
                if self.core.conns[slot].state:
                    self._free(slot)
        core_free(&self.core)

    cdef int read_limits(self, object limits) except -1:
        self.core.limits.head_bytes = limits.head_bytes
        self.core.limits.head_fields = limits.head_fields
        self.core.limits.handshake_s = _whole_s(limits.handshake_timeout_s)
        self.core.limits.keepalive_s = _whole_s(limits.keepalive_s)
        self.core.limits.pong_s = _whole_s(limits.pong_timeout_s)
        self.core.limits.grace_s = _whole_s(limits.go_away_grace_s)
        self.set_rates(rate_t(amount=limits.inbound_messages, window_s=_whole_s(limits.inbound_window_s)),
                       rate_t(amount=limits.outbound_messages, window_s=_whole_s(limits.outbound_window_s)))
        self.core.limits.unsent_age_s = _whole_s(limits.unsent_age_s)
        self.core.limits.unsent_bytes = limits.unsent_bytes
        self.core.limits.unsent_budget_bytes = limits.unsent_budget_bytes
        self.core.limits.drop_newest = limits.slow_consumer == "drop"
        self.core.limits.frames.message_bytes = limits.inbound_message_bytes
        self.core.limits.frames.fragments = limits.inbound_fragments
        networks_set(&self.core.trusted, limits.trusted_proxies)
        self.core.limits.proxy_protocol = limits.proxy_protocol
        addresses_limit(&self.core.addresses, address_limits(open=limits.per_address, begun=rate_t(
            amount=limits.handshakes_per_address, window_s=_whole_s(limits.address_window_s))))
        self.core.limits.vets_peers = limits.proxy_protocol or limits.per_address or limits.handshakes_per_address
        return 0

    cdef void set_rates(self, rate_t inbound, rate_t outbound) noexcept:
        """A bucket says nothing under another rate: then it is filled."""
        cdef uint32_t slot
        cdef bint fills_inbound = rates_differ(inbound, self.core.limits.inbound)
        cdef bint fills_outbound = rates_differ(outbound, self.core.limits.outbound)
        self.core.limits.inbound = inbound
        self.core.limits.outbound = outbound
        if fills_inbound or fills_outbound:
            for slot in range(self.core.high):
                if fills_inbound:
                    self.core.conns[slot].inbound_bucket = 0
                if fills_outbound:
                    self.core.conns[slot].outbound_bucket = 0

    cdef int schedule(self) except -1:
        """One call of run() in the loop's next turn."""
        if not self.scheduled:
            self.call_soon(self.run_bound)
            self.scheduled = True
        return 0

    cdef void arm_liveness(self, uint32_t slot, uint32_t seconds) noexcept:
        # A second more: the wheel may be up to one early, and a pong deadline of 1 s must not be 0.
        wheel_arm(&self.core.liveness, slot, seconds + 1)

    cdef void arm_keepalive(self, uint32_t slot) noexcept:
        # A phase per slot (Knuth's multiplicative hash): those who came together are not pinged together.
        cdef uint32_t keepalive_s = self.core.limits.keepalive_s
        cdef uint32_t phase_s = ((slot * <uint32_t>2654435761) >> 16) % (keepalive_s // 5 + 1)
        self.arm_liveness(slot, keepalive_s + phase_s)

    cdef bint put_frame(self, uint32_t slot, uint8_t opcode, const uint8_t *payload, size_t size) noexcept:
        """Appends a frame and queues the flush. False: out of memory; the connection is doomed."""
        cdef uint8_t *target = out_reserve(&self.core, slot, size + 10)
        cdef size_t header
        out_queue(&self.core, slot)
        if target == NULL:
            self.core.conns[slot].flags |= DOOMED
            return False
        header = frame_header(target, opcode, size)
        if size:  # a ping's payload is NULL, which memcpy may not be given
            memcpy(target + header, payload, size)
        out_commit(&self.core, slot, header + size)
        return True

    cdef int start_closing(self, uint32_t slot, uint16_t code, const uint8_t *reason, size_t size,
                           bint answered) except -1:
        """Out of OPEN. `answered`: the client's close frame was already read, or none will be waited for."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef uint8_t payload[125]
        cdef object farewell
        if conn.state != OPEN:
            return 0
        farewell = self.unbind(slot, code)
        conn.state = CLOSING
        conn.code = code
        if conn.protocol == PROTOCOL_SSE:
            self._put_last_event(slot, code)
            answered = True
        else:
            size = min(size, <size_t>MAX_REASON_BYTES)
            payload[0] = code >> 8
            payload[1] = code & 0xff
            if size:
                memcpy(payload + 2, reason, size)
            # 1005 and 1006 never stand on the wire: the answer to an empty close frame is an empty one.
            self.put_frame(slot, OP_CLOSE, payload, 0 if code == 1005 else size + 2)
        if answered:
            conn.flags |= FINISH | DISCARD
        wheel_disarm(&self.core.age, slot)
        self.arm_liveness(slot, CLOSE_WAIT_S)
        self.schedule()
        if farewell is not None:
            self.on_close(*farewell)
        return 0

    cdef int give_up(self, uint32_t slot) except -1:
        """A slow consumer, policy "close". Before its 101 there is nobody to send a close frame to."""
        if self.core.conns[slot].state == OPEN:
            return self.start_closing(slot, CLOSE_SLOW, b"slow consumer", 13, False)
        return self.end(slot, CLOSE_SLOW)

    cdef int _put_last_event(self, uint32_t slot, uint16_t code) except -1:
        # The id comes back as Last-Event-ID where the EventSource reconnects by itself: the next server, whichever
        # it is, learns why the last one ended (protocol/close.py).
        cdef bytes data = b"%d" % code
        cdef bytes id = b"zpush:close:" + data
        cdef size_t size = sse_bytes("close", id, len(id), data, len(data))
        cdef uint8_t *target = out_reserve(&self.core, slot, size)
        out_queue(&self.core, slot)
        if target == NULL:
            self.core.conns[slot].flags |= DOOMED
            return 0
        out_commit(&self.core, slot, sse_write(target, "close", id, len(id), data, len(data)))
        return 0

    cdef object unbind(self, uint32_t slot, uint16_t code):
        """Out of the table and the gauges. The arguments of on_close, or None where nobody was bound."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef ident_t *ident
        cdef bint was_open = conn.state == OPEN
        if was_open:
            core_uncount(&self.core, self.gauge(conn))
            core_count(&self.core, self._code_column(code), 1)
        if not conn.flags & BOUND:
            return None
        conn.flags &= ~BOUND
        ident = self.core.table.idents[slot]
        farewell = (
            core_handle(&self.core, slot),
            PyBytes_FromStringAndSize(<char *>ident.text, ident.client_bytes),
            PyBytes_FromStringAndSize(<char *>ident.text + ident.client_bytes, ident.user_bytes),
            conn.epoch, code, was_open,
        )
        table_unbind(&self.core.table, slot)
        return farewell

    cdef uint32_t gauge(self, const conn_t *conn) noexcept:
        """The gauge that counts this open connection."""
        if conn.flags & UNKNOWN:
            return self.core.columns.connections_unknown
        if conn.protocol == PROTOCOL_SSE:
            return self.core.columns.connections_sse
        return self.core.columns.connections_websocket

    cdef uint32_t _code_column(self, uint16_t code) noexcept:
        cdef uint32_t i
        for i in range(self.codes_known):
            if self.codes[i] == code:
                return self.code_columns[i]
        return self.core.columns.closes_other

    cdef int end(self, uint32_t slot, uint16_t code) except -1:
        """Gone, now: the socket is closed, everything is given back. What was unsent ends as dropped."""
        cdef object farewell = self.unbind(slot, code)
        self._free(slot)
        if farewell is not None:
            self.on_close(*farewell)
        return 0

    cdef void decide(self, uint32_t slot, uint32_t result) noexcept:
        """The handshake is over without a connection. result: its column."""
        core_count(&self.core, result, 1)
        self.core.conns[slot].state = LINGER

    cdef void _free(self, uint32_t slot) noexcept:
        if self.core.conns[slot].state == HEAD or self.core.conns[slot].state == ASKED:
            self.decide(slot, self.core.columns.handshakes_aborted)
        out_drop(&self.core, slot)
        free_inbound(&self.core, slot)
        wheel_disarm(&self.core.liveness, slot)
        wheel_disarm(&self.core.age, slot)
        if self.core.conns[slot].flags & COUNTED:
            addresses_release(&self.core.addresses, self.core.conns[slot].peer, self.core.now_s)
        close(self.core.conns[slot].fd)  # leaves the epoll set with its last descriptor
        core_release(&self.core, slot)

    cdef int flush_queued(self) except -1:
        """One send per connection with something due; sockets that failed end here."""
        if self.flushing:
            return self.schedule()  # called back from on_close: the loop below takes what was added
        self.flushing = True
        try:
            self._flush_all()
        finally:
            self.flushing = False
        return 0

    cdef int _flush_all(self) except -1:
        cdef uint32_t i = 0
        cdef uint32_t slot
        cdef conn_t *conn
        while i < self.core.queued.count:  # on_close may queue more
            slot = self.core.queued.slots[i]
            i += 1
            conn = &self.core.conns[slot]
            if not conn.flags & QUEUED:
                continue  # released since
            conn.flags &= ~QUEUED
            if conn.flags & DOOMED:
                self.end(slot, conn.code or CLOSE_ABNORMAL)
            elif conn.state != ASKED and not conn.flags & BLOCKED and not out_flush(&self.core, slot):
                self.end(slot, conn.code or CLOSE_ABNORMAL)
            else:
                self.finish(slot)
        self.core.queued.count = 0
        return 0

    cdef void finish(self, uint32_t slot) noexcept:
        """FIN, once the last byte is out."""
        cdef conn_t *conn = &self.core.conns[slot]
        if conn.flags & FINISH and conn.out == NULL:
            conn.flags &= ~FINISH
            shutdown(conn.fd, SHUT_WR)

    cdef int shed(self) except -1:
        """Past the worker's byte budget the largest debtors go first."""
        cdef uint32_t i, slot, worst
        cdef size_t debt, most
        # Half of the budget is the write buffers' own: partial input alone must not cost readers their connection.
        cdef uint64_t budget = self.core.limits.unsent_budget_bytes
        if self.flushing:
            return 0  # called back from on_close: who flushes does this afterwards
        while self.core.unsent + min(self.core.partial, budget // 2) > budget and self.core.blocked.count:
            most = 0
            worst = self.core.blocked.slots[0]
            for i in range(self.core.blocked.count):
                slot = self.core.blocked.slots[i]
                debt = self.core.conns[slot].out.end - self.core.conns[slot].out.begin
                if debt > most:
                    most = debt
                    worst = slot
            self.end(worst, CLOSE_SLOW)
        return 0

    cdef int notify(self) except -1:
        """Tells Python of the messages whose outcome is known by now."""
        cdef uint32_t i
        if self.core.settled_count == 0:
            return 0
        settled = [(self.core.settled[i].token, self.core.settled[i].outcome) for i in range(self.core.settled_count)]
        self.core.settled_count = 0
        return self.settle(settled)

    cdef int settle(self, list settled) except -1:
        self.on_settled(settled)
        return 0


cdef uint32_t _whole_s(object seconds) except? 0:
    """Ticks are seconds: anything shorter waits one."""
    return max(1, round(seconds))
