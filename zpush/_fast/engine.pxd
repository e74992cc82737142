# The public face over the layers below; its fields are the cursors of lease work.
from libc.stdint cimport int64_t, uint16_t, uint32_t

from zpush._fast.core cimport conn_t
from zpush._fast.deliveries cimport Deliveries

cdef class Engine(Deliveries):
    cdef uint32_t dirty_cursor
    cdef uint32_t renewal_cursor

    cdef bint _may_bind(self, const conn_t *conn) noexcept
    cdef int _open(self, uint32_t slot, bytes head, uint32_t age_s, bint expires) except -1
    cdef int arm_life(self, uint32_t slot, uint32_t age_s, bint expires) except -1
    cdef void drain(self, uint32_t slot, uint32_t wait_s) noexcept
    cdef _limit_silence(self, int fd)
    cdef bint _close(self, uint32_t slot, uint16_t code, bytes reason) except? False
    cdef int64_t _find(self, bytes client_id) except? -1
    cdef void _mark(self, uint32_t slot, bint dirty) noexcept
    cdef list _collect(self, uint32_t most, uint32_t visits, uint32_t *cursor, uint16_t flag)
    cdef tuple _lease(self, uint32_t slot)
