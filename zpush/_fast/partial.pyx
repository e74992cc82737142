"""Partial input: conn.inbound is a bytes_t until the connection is open, then a partial_t; NULL at a boundary.

Rules. All of it is counted in core.partial, which is held against the worker's byte budget.
"""

from libc.stdint cimport uint32_t

from zpush._fast.core cimport CLOSING, OPEN, conn_t, core_dealloc, core_t
from zpush._fast.frames cimport frame_reader_free


cdef void free_inbound(core_t *c, uint32_t slot) noexcept:
    cdef conn_t *conn = &c.conns[slot]
    if conn.inbound == NULL:
        return
    if conn.state == OPEN or conn.state == CLOSING:
        c.partial -= sizeof(partial_t) + (<partial_t *>conn.inbound).reader.message_room
        frame_reader_free(&(<partial_t *>conn.inbound).reader)
    else:
        c.partial -= (<bytes_t *>conn.inbound).room
    core_dealloc(c, conn.inbound)
    conn.inbound = NULL
