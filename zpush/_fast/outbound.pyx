"""Write buffers: bytes that wait for the kernel, and messages whose outcome waits for those bytes.

Rules. A connection has a buffer only while bytes are unsent; it is freed with its last byte. `send` is
tried once per engine call and connection, with all that is due (a burst leaves as one), and again when
epoll says so. A message is `delivered` when the kernel took its last byte; a mark remembers where that
byte is. The high-water mark is tested before appending, after a flush made what room it could. A
message that would pass it is refused, or the connection is closed: the policy is a setting.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove, memset

from zpush._fast.core cimport (
    ASKED, BLOCKED, DOOMED, PAUSED, QUEUED, conn_t, core_alloc, core_count, core_dealloc, core_t, core_watch,
    mark_t, out_t, settled_t, slots_add,
)
from zpush._fast.sys cimport EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, errno, send

cdef enum:
    FIRST_MARKS = 8


cdef uint8_t *out_reserve(core_t *c, uint32_t slot, size_t size) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    cdef out_t *out = conn.out
    cdef out_t *grown
    cdef size_t unsent, room
    if out == NULL:
        out = <out_t *>core_alloc(c, sizeof(out_t) + size)
        if out == NULL:
            return NULL
        memset(out, 0, sizeof(out_t))
        out.room = size
        conn.out = out
        return out.data
    if out.room - out.end >= size:
        return out.data + out.end
    unsent = out.end - out.begin
    if out.begin and out.room - unsent >= size:
        memmove(out.data, out.data + out.begin, unsent)
    else:
        room = unsent + size + unsent // 2
        grown = <out_t *>core_alloc(c, sizeof(out_t) + room)
        if grown == NULL:
            return NULL
        grown[0] = out[0]
        grown.room = room
        memcpy(grown.data, out.data + out.begin, unsent)
        core_dealloc(c, out)
        conn.out = out = grown
    out.begin = 0
    out.end = unsent
    return out.data + unsent


cdef void out_commit(core_t *c, uint32_t slot, size_t size) noexcept:
    c.conns[slot].out.end += size
    c.unsent += size


cdef bint out_append(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept:
    cdef uint8_t *target = out_reserve(c, slot, size)
    if target == NULL:
        return False
    memcpy(target, data, size)
    out_commit(c, slot, size)
    return True


cdef bint out_prepend(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept:
    """Before anything was sent: the 101 goes in front of what was delivered while the lease was being written."""
    cdef out_t *out
    if out_reserve(c, slot, size) == NULL:
        return False
    out = c.conns[slot].out
    memmove(out.data + size, out.data, out.end)
    memcpy(out.data, data, size)
    out_commit(c, slot, size)
    c.conns[slot].taken -= size  # so what was there keeps its place
    return True


cdef int64_t out_mark_here(const conn_t *conn) noexcept:
    return conn.taken + <int64_t>(conn.out.end - conn.out.begin)


cdef void out_watch(const core_t *c, conn_t *conn) noexcept:
    conn.out.watched = out_mark_here(conn)
    conn.out.since_s = c.now_s + 1  # the present second is under way: nothing is found older than it is


cdef bint out_mark(core_t *c, uint32_t slot, int64_t end, uint64_t token) noexcept:
    cdef out_t *out = c.conns[slot].out
    cdef mark_t *grown
    cdef uint32_t room
    cdef uint32_t pending = out.marks_end - out.marks_begin
    if out.marks_end == out.marks_room and out.marks_begin > pending:
        # More than half are settled. A buffer that never empties would grow for ever.
        memcpy(out.marks, out.marks + out.marks_begin, pending * sizeof(mark_t))
        out.marks_begin = 0
        out.marks_end = pending
    elif out.marks_end == out.marks_room:
        room = out.marks_room * 2 if out.marks_room else FIRST_MARKS
        grown = <mark_t *>core_alloc(c, room * sizeof(mark_t))
        if grown == NULL:
            return False
        if out.marks != NULL:
            memcpy(grown, out.marks + out.marks_begin, pending * sizeof(mark_t))
            core_dealloc(c, out.marks)
        out.marks = grown
        out.marks_begin = 0
        out.marks_end = pending
        out.marks_room = room
    out.marks[out.marks_end] = mark_t(end=end, token=token)
    out.marks_end += 1
    return True


cdef admission out_admit(core_t *c, uint32_t slot, size_t size) noexcept:
    cdef out_t *out = c.conns[slot].out
    if out == NULL or out.end - out.begin + size <= c.limits.unsent_bytes:
        return ADMIT
    if c.conns[slot].state != ASKED:
        if not out_flush(c, slot):
            return ADMIT_GONE
        out = c.conns[slot].out
        if out == NULL or out.end - out.begin + size <= c.limits.unsent_bytes:
            return ADMIT
    return ADMIT_DROP if c.limits.drop_newest else ADMIT_CLOSE


cdef ssize_t _send(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept:
    """Bytes the kernel took (0: its buffer is full), or -1 where the socket failed."""
    cdef ssize_t sent
    while True:
        sent = send(c.conns[slot].fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent >= 0:
            core_count(c, c.columns.sends, 1)
            core_count(c, c.columns.sent_bytes, sent)
            c.conns[slot].taken += sent
            return sent
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            c.conns[slot].flags |= DOOMED
            out_queue(c, slot)
            return -1


cdef bint out_send(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept:
    cdef ssize_t sent = _send(c, slot, data, size)
    if sent < 0:
        return False
    if <size_t>sent < size:
        if not out_append(c, slot, data + sent, size - sent):
            c.conns[slot].flags |= DOOMED  # half a frame is out and the rest has no room: the stream is broken
            out_queue(c, slot)
            return False
        _block(c, slot)
    return True


cdef bint out_flush(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    cdef out_t *out = conn.out
    cdef ssize_t sent
    if conn.flags & DOOMED:
        return False
    if out == NULL:
        return True
    sent = _send(c, slot, out.data + out.begin, out.end - out.begin)
    if sent < 0:
        return False
    out.begin += sent
    c.unsent -= sent
    _settle_sent(c, conn)
    if out.begin == out.end:
        _unblock(c, slot)
        _free(c, conn)
    elif not conn.flags & BLOCKED:
        _block(c, slot)
    return True


cdef void out_queue(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    if not conn.flags & QUEUED and slots_add(&c.queued, slot):
        conn.flags |= QUEUED


cdef void out_drop(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    cdef out_t *out = conn.out
    cdef uint32_t i
    if out == NULL:
        return
    for i in range(out.marks_begin, out.marks_end):
        _settle(c, out.marks[i].token, OUTCOME_DROPPED)
    c.unsent -= out.end - out.begin
    if conn.flags & BLOCKED:
        _leave_blocked(c, slot)
    _free(c, conn)


cdef void _free(core_t *c, conn_t *conn) noexcept:
    core_dealloc(c, conn.out.marks)
    core_dealloc(c, conn.out)
    conn.out = NULL


cdef void _settle_sent(core_t *c, const conn_t *conn) noexcept:
    cdef out_t *out = conn.out
    while out.marks_begin < out.marks_end and out.marks[out.marks_begin].end <= conn.taken:
        _settle(c, out.marks[out.marks_begin].token, OUTCOME_DELIVERED)
        out.marks_begin += 1


cdef void _settle(core_t *c, uint64_t token, uint8_t outcome) noexcept:
    cdef settled_t *grown
    cdef uint32_t room
    if c.settled_count == c.settled_room:
        room = c.settled_room * 2 if c.settled_room else 256
        grown = <settled_t *>realloc(c.settled, room * sizeof(settled_t))
        if grown == NULL:
            return  # the caller's own deadline on the answer ends it: at least once
        c.settled = grown
        c.settled_room = room
    c.settled[c.settled_count] = settled_t(token=token, outcome=outcome)
    c.settled_count += 1


cdef void _block(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    out_watch(c, conn)
    if slots_add(&c.blocked, slot):
        conn.index = c.blocked.count - 1
        conn.flags |= BLOCKED
        core_watch(c, slot)
    else:
        conn.flags |= DOOMED
        out_queue(c, slot)


cdef void _unblock(core_t *c, uint32_t slot) noexcept:
    if c.conns[slot].flags & BLOCKED:
        _leave_blocked(c, slot)
        c.conns[slot].flags &= ~PAUSED  # its answers are out: it may ask again
        core_watch(c, slot)


cdef void _leave_blocked(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    cdef uint32_t last = c.blocked.slots[c.blocked.count - 1]
    c.blocked.slots[conn.index] = last
    c.conns[last].index = conn.index
    c.blocked.count -= 1
    conn.flags &= ~BLOCKED
