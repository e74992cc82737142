"""The engine's public face: handles and bytes in, callbacks out (engine.pyi describes each call).

Rules. One engine a worker, called from one thread. A dead handle is an answer (False, None, 0), not an
error: connections end at any time. Every public call leaves queued bytes to one flush at its end or in
the loop's next turn. Built in layers, one concept each: Connections ← Inbound ← Deadlines ← Deliveries ← Engine.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zpush._fast.addresses cimport addresses_release
from zpush._fast.connections cimport CLOSE_ABNORMAL, CLOSE_REPLACED, CLOSE_SHUTDOWN
from zpush._fast.core cimport (
    ASKED, AWAITS_PONG, BOUND, COUNTED, DIRTY, DOOMED, DRAINED, EXPIRES, FREE, GOING, NO_SLOT, OPEN, PROTOCOL_RAW,
    PROTOCOL_SSE, PROTOCOL_V1, UNKNOWN, conn_t, core_count, core_handle, core_random, core_slot, core_uncount,
)
from zpush._fast.deliveries cimport Deliveries
from zpush._fast.networks cimport address_from_text
from zpush._fast.outbound cimport ADMIT, ADMIT_CLOSE, admission, out_admit, out_prepend, out_queue
from zpush._fast.sys cimport EPOLL_CTL_DEL, IPPROTO_TCP, TCP_USER_TIMEOUT, epoll_ctl, setsockopt
from zpush._fast.table cimport ident_t, table_bind, table_find
from zpush._fast.wheel cimport wheel_arm, wheel_disarm, wheel_left

RAW = PROTOCOL_RAW
V1 = PROTOCOL_V1
EVENT_STREAM = PROTOCOL_SSE


cdef class Engine(Deliveries):
    def __init__(self, *args, **kwargs):
        self.run_bound = self.run

    def fileno(self):
        return self.core.epoll_fd

    def set_limits(self, limits):
        self.read_limits(limits)

    def add_listener(self, int fd):
        if not self.listeners_rest:  # else the next sweep watches them all
            self.watch_listener(fd)
        self.listeners.append(fd)

    def remove_listener(self, int fd):
        self.listeners.remove(fd)
        epoll_ctl(self.core.epoll_fd, EPOLL_CTL_DEL, fd, NULL)

    # ---- turns

    def poll(self):
        self.take_events()
        self.flush()

    def run(self):
        """What did not fit into the last turn. Scheduled by the engine itself."""
        self.scheduled = False
        more_due = self.work_off()
        more_sends = self.step_broadcasts()
        self.flush()
        if more_due or more_sends:
            self.schedule()

    def sweep(self, uint32_t elapsed_s):
        self.pass_time(elapsed_s)
        self.run()

    def flush(self):
        self.flush_queued()
        self.shed()
        self.notify()

    # ---- handshake

    def bind(self, uint64_t handle, bytes client_id not None, bytes user_id not None, uint8_t protocol):
        cdef uint32_t slot = core_slot(&self.core, handle)
        cdef int64_t before
        cdef conn_t *conn
        if slot == NO_SLOT or not self._may_bind(&self.core.conns[slot]):
            raise KeyError(f"connection {handle:#x} is not waiting for an answer")
        conn = &self.core.conns[slot]
        if not 1 <= len(client_id) <= 255 or len(user_id) > 255:
            raise ValueError(f"ids are at most 255 bytes: client {len(client_id)}, user {len(user_id)}")
        before = table_bind(
            &self.core.table, slot, <const uint8_t *>PyBytes_AS_STRING(client_id), <uint8_t>len(client_id),
            <const uint8_t *>PyBytes_AS_STRING(user_id), <uint8_t>len(user_id))
        if before == -2:
            raise MemoryError
        conn.flags |= BOUND
        if conn.state == ASKED:
            conn.protocol = protocol
        return core_handle(&self.core, <uint32_t>before) if before >= 0 else 0

    def rebind(self, uint64_t handle):
        cdef uint32_t slot = core_slot(&self.core, handle)
        cdef bytes client_id
        cdef bytes user_id
        if slot == NO_SLOT or self.core.conns[slot].state != OPEN or not self.core.conns[slot].flags & BOUND:
            return False
        _, client_id, user_id, _ = self._lease(slot)
        if self._find(client_id) < 0 and table_bind(
            &self.core.table, slot, <const uint8_t *>PyBytes_AS_STRING(client_id), <uint8_t>len(client_id),
            <const uint8_t *>PyBytes_AS_STRING(user_id), <uint8_t>len(user_id)) == -2:
            raise MemoryError
        return self._find(client_id) == slot

    cdef bint _may_bind(self, const conn_t *conn) noexcept:
        return not conn.flags & BOUND and (conn.state == ASKED or (conn.state == OPEN and conn.flags & UNKNOWN))

    def set_peer(self, uint64_t handle, str address not None):
        cdef uint32_t slot = core_slot(&self.core, handle)
        cdef bytes text = address.encode()
        cdef uint8_t parsed[16]
        cdef conn_t *conn
        if not address_from_text(parsed, 0, <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)):
            raise ValueError("not an IP address")
        if slot == NO_SLOT or self.core.conns[slot].state != ASKED:
            return False
        conn = &self.core.conns[slot]
        if conn.flags & COUNTED:  # under another address: the settings were reloaded since
            conn.flags &= ~COUNTED
            addresses_release(&self.core.addresses, conn.peer, self.core.now_s)
        memcpy(conn.peer, parsed, sizeof(parsed))
        self.take_address(slot)
        return conn.state == ASKED

    def open(self, uint64_t handle, bytes head not None, uint64_t epoch, uint32_t age_s, bint expires):
        cdef uint32_t slot = core_slot(&self.core, handle)
        if slot == NO_SLOT or self.core.conns[slot].state != ASKED or not self.core.conns[slot].flags & BOUND:
            return False
        self._open(slot, head, age_s, expires)
        self.core.conns[slot].epoch = epoch
        self.take_leftover(slot)
        return True

    def open_unknown(self, uint64_t handle, bytes head not None, uint8_t protocol, uint32_t deadline_s):
        cdef uint32_t slot = core_slot(&self.core, handle)
        if slot == NO_SLOT or self.core.conns[slot].state != ASKED or self.core.conns[slot].flags & BOUND:
            return False
        self.core.conns[slot].protocol = protocol
        self.core.conns[slot].flags |= UNKNOWN
        self._open(slot, head, deadline_s, False)
        self.take_leftover(slot)
        return True

    cdef int _open(self, uint32_t slot, bytes head, uint32_t age_s, bint expires) except -1:
        cdef conn_t *conn = &self.core.conns[slot]
        if not out_prepend(&self.core, slot, <const uint8_t *>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head)):
            conn.flags |= DOOMED
        conn.state = OPEN
        self.arm_keepalive(slot)
        self.arm_life(slot, age_s, expires)
        core_count(&self.core, self.core.columns.handshakes_ok, 1)
        core_count(&self.core, self.gauge(conn), 1)
        if conn.protocol == PROTOCOL_SSE:
            self._limit_silence(conn.fd)
        out_queue(&self.core, slot)
        return self.schedule()

    cdef int arm_life(self, uint32_t slot, uint32_t age_s, bint expires) except -1:
        if expires:
            return self.arm_end(slot, age_s)
        self.arm_age(slot, age_s)
        return 0

    def admit(self, uint64_t handle, uint64_t epoch, uint32_t age_s, bint expires):
        cdef uint32_t slot = core_slot(&self.core, handle)
        cdef conn_t *conn
        if slot == NO_SLOT or self.core.conns[slot].state != OPEN or not self.core.conns[slot].flags & BOUND:
            return False
        conn = &self.core.conns[slot]
        core_uncount(&self.core, self.gauge(conn))
        conn.flags &= ~UNKNOWN
        core_count(&self.core, self.gauge(conn), 1)
        conn.epoch = epoch
        if conn.flags & DRAINED:
            return True  # it is on its way out, whoever it is
        conn.flags &= ~(EXPIRES | GOING)
        wheel_disarm(&self.core.age, slot)
        self.arm_life(slot, age_s, expires)
        return True

    cdef _limit_silence(self, int fd):
        # An event stream has no pong: the kernel gives up on unacknowledged keepalives instead (tcp(7)).
        cdef unsigned int limit_ms = 1000 * (self.core.limits.keepalive_s + self.core.limits.pong_s)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms))

    def respond(self, uint64_t handle, bytes response not None, str result not None):
        cdef uint32_t slot = core_slot(&self.core, handle)
        cdef object farewell
        cdef uint32_t column
        if slot == NO_SLOT or self.core.conns[slot].state != ASKED:
            return False
        column = self.columns["handshakes_" + result]
        farewell = self.unbind(slot, CLOSE_ABNORMAL)
        self.refuse(slot, PyBytes_AS_STRING(response), column)
        if farewell is not None:
            self.on_close(*farewell)
        return True

    # ---- single connections

    def send(self, uint64_t handle, uint8_t opcode, bytes payload not None):
        cdef uint32_t slot = core_slot(&self.core, handle)
        cdef admission admitted
        if slot == NO_SLOT or self.core.conns[slot].state != OPEN or self.core.conns[slot].protocol == PROTOCOL_SSE:
            return False
        admitted = out_admit(&self.core, slot, PyBytes_GET_SIZE(payload))
        if admitted == ADMIT_CLOSE:
            self.give_up(slot)  # it asks and asks, and never reads the answers
        if admitted != ADMIT:
            return False
        self.put_frame(slot, opcode, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        self.schedule()
        return True

    def close(self, uint64_t handle, uint16_t code, bytes reason not None=b""):
        cdef uint32_t slot = core_slot(&self.core, handle)
        if slot == NO_SLOT:
            return False
        return self._close(slot, code, reason)

    cdef bint _close(self, uint32_t slot, uint16_t code, bytes reason) except? False:
        cdef conn_t *conn = &self.core.conns[slot]
        if conn.state == OPEN:
            self.start_closing(slot, code, <const uint8_t *>PyBytes_AS_STRING(reason), PyBytes_GET_SIZE(reason), False)
            return True
        if conn.state == ASKED:
            if code == CLOSE_REPLACED:
                self.decide(slot, self.core.columns.handshakes_replaced)
            elif code == CLOSE_SHUTDOWN:
                self.decide(slot, self.core.columns.handshakes_draining)
            self.end(slot, code)
            return True
        return False

    def close_client(self, bytes client_id not None, uint64_t epoch, uint16_t code, bytes reason not None=b""):
        cdef int64_t slot = self._find(client_id)
        if slot < 0 or (epoch and self.core.conns[slot].epoch > epoch):
            return False
        return self._close(<uint32_t>slot, code, reason)

    def client(self, uint64_t handle):
        cdef uint32_t slot = core_slot(&self.core, handle)
        if slot == NO_SLOT or not self.core.conns[slot].flags & BOUND:
            return None
        return self._lease(slot)[1:]

    def find(self, bytes client_id not None):
        cdef int64_t slot = self._find(client_id)
        return core_handle(&self.core, <uint32_t>slot) if slot >= 0 else 0

    def is_open(self, uint64_t handle):
        cdef uint32_t slot = core_slot(&self.core, handle)
        return slot != NO_SLOT and self.core.conns[slot].state == OPEN

    cdef int64_t _find(self, bytes client_id) except? -1:
        return table_find(&self.core.table, <const uint8_t *>PyBytes_AS_STRING(client_id), PyBytes_GET_SIZE(client_id))

    # ---- all connections

    def go_away_all(self, uint32_t window_s):
        cdef uint32_t slot
        cdef uint32_t asked = 0
        cdef conn_t *conn
        for slot in range(self.core.high):
            conn = &self.core.conns[slot]
            if conn.state == OPEN:
                conn.flags |= DRAINED
                asked += 1
                if not conn.flags & GOING:
                    self.drain(slot, 1 + core_random(&self.core, window_s))
        return asked

    cdef void drain(self, uint32_t slot, uint32_t wait_s) noexcept:
        """Asked to go in wait_s, perhaps a second early; sooner where its token ends."""
        cdef conn_t *conn = &self.core.conns[slot]
        cdef uint32_t left_s = wheel_left(&self.core.age, slot)
        if not conn.flags & EXPIRES:
            conn.age_more_s = 0
        elif left_s <= wait_s:
            return
        else:
            conn.age_more_s += left_s - wait_s
        wheel_arm(&self.core.age, slot, wait_s)

    def close_all(self, uint16_t code):
        cdef uint32_t slot
        cdef uint32_t closed = 0
        for slot in range(self.core.high):
            if self.core.conns[slot].state != FREE:
                closed += self._close(slot, code, b"")
        self.flush()
        return closed

    def dispose(self):
        cdef uint32_t slot
        for slot in range(self.core.high):
            if self.core.conns[slot].state != FREE:
                self.end(slot, self.core.conns[slot].code or CLOSE_ABNORMAL)
        self.notify()

    @property
    def slots(self):
        return self.core.high

    @property
    def connections(self):
        return self.core.used

    # ---- leases

    def set_epoch(self, uint64_t handle, uint64_t epoch):
        cdef uint32_t slot = core_slot(&self.core, handle)
        if slot != NO_SLOT:
            self.core.conns[slot].epoch = epoch

    def set_dirty(self, uint64_t handle, bint dirty):
        cdef uint32_t slot = core_slot(&self.core, handle)
        if slot != NO_SLOT:
            self._mark(slot, dirty)

    def set_all_dirty(self):
        cdef uint32_t slot
        for slot in range(self.core.high):
            if self.core.conns[slot].state == OPEN:
                self._mark(slot, True)
        return self.dirty_leases

    cdef void _mark(self, uint32_t slot, bint dirty) noexcept:
        cdef conn_t *conn = &self.core.conns[slot]
        if dirty:
            conn.flags |= DIRTY
        else:
            conn.flags &= ~DIRTY

    def dirty(self, uint32_t limit):
        return self._collect(limit, self.core.high, &self.dirty_cursor, DIRTY)

    def renewals(self, uint32_t limit):
        return self._collect(limit, limit, &self.renewal_cursor, 0)

    @property
    def dirty_leases(self):
        """Open connections whose lease is to be written again. Counted on demand: a walk over all slots."""
        cdef uint32_t slot
        cdef uint32_t count = 0
        for slot in range(self.core.high):
            count += self.core.conns[slot].state == OPEN and (self.core.conns[slot].flags & DIRTY) != 0
        return count

    cdef list _collect(self, uint32_t most, uint32_t visits, uint32_t *cursor, uint16_t dirty):
        """Up to `most` open connections, all dirty or all not, from the cursor on, visiting `visits` slots at most."""
        cdef list found = []
        cdef uint32_t slot
        cdef conn_t *conn
        visits = min(visits, self.core.high)
        while visits and <uint32_t>len(found) < most:
            if cursor[0] >= self.core.high:
                cursor[0] = 0
            slot = cursor[0]
            cursor[0] += 1
            visits -= 1
            conn = &self.core.conns[slot]
            if conn.state == OPEN and conn.flags & (BOUND | UNKNOWN) == BOUND and conn.flags & DIRTY == dirty:
                found.append(self._lease(slot))
        return found

    cdef tuple _lease(self, uint32_t slot):
        cdef ident_t *ident = self.core.table.idents[slot]
        return (
            core_handle(&self.core, slot),
            PyBytes_FromStringAndSize(<char *>ident.text, ident.client_bytes),
            PyBytes_FromStringAndSize(<char *>ident.text + ident.client_bytes, ident.user_bytes),
            self.core.conns[slot].epoch,
        )
