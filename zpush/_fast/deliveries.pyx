"""What senders say, put into frames and write buffers, with an outcome for each.

Rules. A batch's messages for one connection leave in one send. The outcome is the kernel's word: delivered
when it took the last byte; pending while the message waits in a write buffer, settled later by token.
A client that is not here is NOT_HERE: the caller looks it up again. A broadcast is a cursor over all
slots, SENDS_A_TURN a turn; those that wait share the next pass and leave as one send per connection. A
client's rate holds for both: of a pass it gets the first ones, and the rest is rate_limited.
"""

from binascii import b2a_base64

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from zpush._fast.bucket cimport bucket_spend
from zpush._fast.core cimport (
    ASKED, BLOCKED, DOOMED, LINGER, NO_SLOT, OPEN, PROTOCOL_RAW, PROTOCOL_SSE, PROTOCOL_V1, UNKNOWN,
    conn_t, core_count, core_handle, core_slot,
)
from zpush._fast.frames cimport OP_BINARY, OP_TEXT, frame_header
from zpush._fast.outbound cimport (
    ADMIT, ADMIT_CLOSE, ADMIT_GONE, OUTCOME_DELIVERED, OUTCOME_DROPPED, OUTCOME_NOT_HERE, OUTCOME_PENDING, OUTCOME_RATE_LIMITED,
    admission,
    out_admit, out_append, out_commit, out_mark, out_mark_here, out_queue, out_reserve, out_send,
)
from zpush._fast.sse cimport sse_bytes, sse_write
from zpush._fast.table cimport table_find

cdef enum:
    KIND_BINARY = 2          # protocol.message.Kind
    FRAMING_BYTES = 32       # what framing adds at most to a short message; for the high-water mark only

cdef uint64_t BROADCAST_BIT = <uint64_t>1 << 62


cdef class Broadcast:
    pass


cdef class Pass:
    pass


cdef class Deliveries(Deadlines):
    def __cinit__(self, handler, uint32_t capacity, limits, memoryview cells, columns, call_soon, encode_v1,
                  bint echo=False, uint64_t seed=0):
        self.encode_v1 = encode_v1
        self.next_token = 1
        self.waiting = []
        self.unsettled = {}

    def deliver_many(self, list entries not None):
        cdef Py_ssize_t count = len(entries)
        cdef bytearray outcomes = bytearray(count)
        cdef uint8_t *outcome = <uint8_t *>outcomes
        cdef placed_t *placed = <placed_t *>malloc((count or 1) * sizeof(placed_t))
        cdef list pending = []
        cdef Py_ssize_t i
        cdef tuple entry
        if placed == NULL:
            raise MemoryError
        try:
            for i in range(count):
                entry = <tuple?>entries[i]
                outcome[i] = self.place(entry[0], entry[1], entry[2], entry[3], &placed[i])
            self.flush_queued()
            for i in range(count):
                if outcome[i] == OUTCOME_PENDING:
                    outcome[i] = self._outcome(&placed[i])
                    if outcome[i] == OUTCOME_PENDING:
                        pending.append((i, self.next_token))
                        self.next_token += 1
        finally:
            free(placed)
        self.shed()  # not before all are marked, so that those of the largest debtor end as dropped
        if self.core.settled_count:
            self.schedule()
        return outcomes, pending

    cdef uint8_t place(self, bytes client_id, bytes message_id, bytes payload, uint8_t kind,
                       placed_t *placed) except? 255:
        """Into the client's write buffer. PENDING: `placed` says where; else the outcome."""
        cdef int64_t found = table_find(
            &self.core.table, <const uint8_t *>PyBytes_AS_STRING(client_id), PyBytes_GET_SIZE(client_id))
        cdef uint32_t slot
        cdef admission admitted
        if found < 0:
            return OUTCOME_NOT_HERE
        slot = <uint32_t>found
        if self.core.conns[slot].flags & DOOMED:
            return OUTCOME_NOT_HERE
        if not bucket_spend(&self.core.conns[slot].outbound_bucket, self.core.limits.outbound, self.core.now_s, 1):
            core_count(&self.core, self.core.columns.outbound_limited, 1)
            return OUTCOME_RATE_LIMITED
        admitted = out_admit(&self.core, slot, PyBytes_GET_SIZE(payload) + FRAMING_BYTES)
        if admitted == ADMIT_GONE:
            return OUTCOME_NOT_HERE
        if admitted == ADMIT_CLOSE:
            self.give_up(slot)
            return OUTCOME_DROPPED
        if admitted != ADMIT or not self.put_message(slot, message_id, payload, kind):
            return OUTCOME_DROPPED
        placed.handle = core_handle(&self.core, slot)
        placed.end = out_mark_here(&self.core.conns[slot])
        return OUTCOME_PENDING

    cdef uint8_t _outcome(self, placed_t *placed) except? 255:
        """After the flush: taken by the kernel, gone with its connection, or waiting under the next token."""
        cdef uint32_t slot = core_slot(&self.core, placed.handle)
        cdef conn_t *conn
        if slot == NO_SLOT:
            return OUTCOME_NOT_HERE  # the socket failed before the last byte was taken
        conn = &self.core.conns[slot]
        if placed.end <= conn.taken:
            return OUTCOME_DELIVERED
        if conn.out == NULL or conn.state == LINGER:
            return OUTCOME_DROPPED  # refused by whoever was called meanwhile
        if not out_mark(&self.core, slot, placed.end, self.next_token):
            return OUTCOME_DROPPED
        return OUTCOME_PENDING

    cdef bint put_message(self, uint32_t slot, bytes message_id, bytes payload, uint8_t kind) except? False:
        """Framed for the connection's protocol, behind what is there, to be flushed."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes text
        if conn.protocol == PROTOCOL_RAW:
            return self.put_frame(slot, OP_BINARY if kind == KIND_BINARY else OP_TEXT,
                                  <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if conn.protocol == PROTOCOL_V1:
            text = self.encode_v1(message_id, kind, payload)
            return self.put_frame(slot, OP_TEXT, <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        text = _event(message_id, kind, payload)
        if not out_append(&self.core, slot, <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)):
            conn.flags |= DOOMED
        out_queue(&self.core, slot)
        return not conn.flags & DOOMED

    # ---- broadcasts

    def broadcast(self, bytes message_id not None, bytes payload not None, uint8_t kind):
        cdef Broadcast broadcast = Broadcast()
        broadcast.token = BROADCAST_BIT | self.next_token
        self.next_token += 1
        broadcast.message_id = message_id
        broadcast.payload = payload
        broadcast.kind = kind
        broadcast.counts = {}
        self.waiting.append(broadcast)
        self.schedule()
        return broadcast.token

    cdef bint step_broadcasts(self) except? False:
        """At most SENDS_A_TURN sends. True: more is left."""
        cdef uint32_t budget = SENDS_A_TURN
        cdef uint32_t slot
        if self.current is None:
            if not self.waiting:
                return False
            self.current = Pass()
            self.current.broadcasts = self.waiting
            self.current.bytes_by_protocol = [None] * 4
            self.current.ends_by_protocol = [None] * 4
            self.waiting = []
            for broadcast in self.current.broadcasts:
                self.unsettled[(<Broadcast>broadcast).token] = broadcast
        while budget and self.current.cursor < self.core.high:
            slot = self.current.cursor
            self.current.cursor += 1
            if self.core.conns[slot].state == OPEN and not self.core.conns[slot].flags & (DOOMED | UNKNOWN):
                budget -= 1
                if self.core.limits.outbound.amount:
                    self.broadcast_within_rate(slot)
                else:
                    self.broadcast_to(slot)
        self.flush_queued()
        if self.current.cursor >= self.core.high:
            self.finish_pass()
        return self.current is not None or len(self.waiting) > 0

    cdef int broadcast_to(self, uint32_t slot) except -1:
        """All of the pass's broadcasts to one connection, in one send where nothing is unsent."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef Pass current = self.current
        cdef bytes data = self.pass_bytes(conn.protocol)
        cdef const uint8_t *begin = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef int64_t start = conn.taken
        if conn.out != NULL:
            return self.append_first(slot, len(current.broadcasts))
        if not out_send(&self.core, slot, begin, PyBytes_GET_SIZE(data)):
            current.dropped += 1
        elif conn.out == NULL:
            current.delivered += 1
        else:
            self._mark_first(slot, len(current.broadcasts), start)
        return 0

    cdef int broadcast_within_rate(self, uint32_t slot) except -1:
        """As many of the pass's broadcasts as the client's rate lets pass; the others end here."""
        cdef uint32_t count = len(self.current.broadcasts)
        cdef uint32_t passed = bucket_spend(
            &self.core.conns[slot].outbound_bucket, self.core.limits.outbound, self.core.now_s, count)
        if passed == count:
            return self.broadcast_to(slot)
        core_count(&self.core, self.core.columns.outbound_limited, count - passed)
        self._count_some(passed, count, OUTCOME_RATE_LIMITED)
        return self.append_first(slot, passed) if passed else 0

    cdef int append_first(self, uint32_t slot, Py_ssize_t count) except -1:
        """The first so many of the pass's broadcasts, behind what is unsent."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef bytes data = self.pass_bytes(conn.protocol)
        cdef size_t size = self.current.ends_by_protocol[conn.protocol][count - 1]
        cdef admission admitted = out_admit(&self.core, slot, size)
        if admitted == ADMIT_CLOSE:
            self.give_up(slot)
        if admitted != ADMIT or not out_append(&self.core, slot, <const uint8_t *>PyBytes_AS_STRING(data), size):
            return self._count_some(0, count, OUTCOME_DROPPED)
        out_queue(&self.core, slot)
        return self._mark_first(slot, count, out_mark_here(conn) - <int64_t>size)

    cdef int _count_some(self, Py_ssize_t begin, Py_ssize_t end, uint8_t outcome) except -1:
        cdef Py_ssize_t i
        for i in range(begin, end):
            _count(<Broadcast>self.current.broadcasts[i], outcome, 1)
        return 0

    cdef int _mark_first(self, uint32_t slot, Py_ssize_t count, int64_t start) except -1:
        """Each broadcast's own outcome, where only a part of their bytes is out. start: of the first one's bytes."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef list ends = self.current.ends_by_protocol[conn.protocol]
        cdef Broadcast broadcast
        cdef Py_ssize_t i
        cdef int64_t end
        for i in range(count):
            broadcast = self.current.broadcasts[i]
            end = start + <int64_t>ends[i]
            if end <= conn.taken:
                _count(broadcast, OUTCOME_DELIVERED, 1)
            elif out_mark(&self.core, slot, end, broadcast.token):
                broadcast.pending += 1
            else:
                _count(broadcast, OUTCOME_DROPPED, 1)
        return 0

    cdef bytes pass_bytes(self, uint8_t protocol):
        cdef bytes data = self.current.bytes_by_protocol[protocol]
        if data is not None:
            return data
        parts = []
        ends = []
        size = 0
        for broadcast in self.current.broadcasts:
            part = self._encode(<Broadcast>broadcast, protocol)
            parts.append(part)
            size += len(part)
            ends.append(size)
        data = b"".join(parts)
        self.current.bytes_by_protocol[protocol] = data
        self.current.ends_by_protocol[protocol] = ends
        return data

    cdef bytes _encode(self, Broadcast broadcast, uint8_t protocol):
        if protocol == PROTOCOL_SSE:
            return _event(broadcast.message_id, broadcast.kind, broadcast.payload)
        if protocol == PROTOCOL_RAW:
            return _frame(OP_BINARY if broadcast.kind == KIND_BINARY else OP_TEXT, broadcast.payload)
        return _frame(OP_TEXT, self.encode_v1(broadcast.message_id, broadcast.kind, broadcast.payload))

    cdef int finish_pass(self) except -1:
        cdef Pass done = self.current
        cdef Broadcast broadcast
        self.current = None
        for item in done.broadcasts:
            broadcast = item
            _count(broadcast, OUTCOME_DELIVERED, done.delivered)
            _count(broadcast, OUTCOME_DROPPED, done.dropped)
            broadcast.passed = True
            self.conclude(broadcast)
        return 0

    cdef int conclude(self, Broadcast broadcast) except -1:
        if broadcast.passed and broadcast.pending == 0:
            del self.unsettled[broadcast.token]
            self.on_broadcast(broadcast.token, broadcast.counts)
        return 0

    cdef int settle(self, list settled) except -1:
        """Single messages are Python's to match; broadcasts are counted here."""
        cdef Broadcast broadcast
        cdef list single = []
        for pair in settled:
            broadcast = self.unsettled.get(pair[0])
            if broadcast is None:
                single.append(pair)
                continue
            broadcast.pending -= 1
            _count(broadcast, pair[1], 1)
            self.conclude(broadcast)
        if single:
            self.on_settled(single)
        return 0


cdef int _count(Broadcast broadcast, uint8_t outcome, uint64_t connections) except -1:
    if connections:
        broadcast.counts[outcome] = broadcast.counts.get(outcome, 0) + connections
    return 0


cdef bytes _frame(uint8_t opcode, bytes payload):
    cdef uint8_t header[10]
    cdef size_t size = frame_header(header, opcode, PyBytes_GET_SIZE(payload))
    return PyBytes_FromStringAndSize(<char *>header, size) + payload


cdef bytes _event(bytes message_id, uint8_t kind, bytes payload):
    """`event: push`; a binary payload travels as base64 under `event: binary`, for a stream is text."""
    cdef const char *event = b"push"
    cdef size_t size
    cdef bytes text
    if kind == KIND_BINARY:
        payload = b2a_base64(payload, newline=False)
        event = b"binary"
    size = sse_bytes(event, <const uint8_t *>PyBytes_AS_STRING(message_id), PyBytes_GET_SIZE(message_id),
                     <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    text = PyBytes_FromStringAndSize(NULL, size)
    sse_write(<uint8_t *>PyBytes_AS_STRING(text), event, <const uint8_t *>PyBytes_AS_STRING(message_id),
              PyBytes_GET_SIZE(message_id), <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    return text
