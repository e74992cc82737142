# Write buffers: what a connection still has to send, and the outcomes that wait for it.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zpush._fast.core cimport conn_t, core_t

cdef enum outcome:               # protocol.message.Outcome; a test compares them
    OUTCOME_PENDING = 0
    OUTCOME_DELIVERED = 1
    OUTCOME_OFFLINE = 3
    OUTCOME_DROPPED = 5
    OUTCOME_RATE_LIMITED = 6
    OUTCOME_NOT_HERE = 16

cdef enum admission:
    ADMIT = 0
    ADMIT_DROP = 1               # past the mark, policy "drop": this message is not taken
    ADMIT_CLOSE = 2              # past the mark, policy "close"
    ADMIT_GONE = 3               # the socket failed while making room

# Room for `size` more bytes behind the buffer's end; NULL: out of memory. Then out_commit what was written.
cdef uint8_t *out_reserve(core_t *c, uint32_t slot, size_t size) noexcept
cdef void out_commit(core_t *c, uint32_t slot, size_t size) noexcept
cdef bint out_append(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept      # False: out of memory
cdef bint out_prepend(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept
cdef int64_t out_mark_here(const conn_t *conn) noexcept  # the buffer's end, counted as marks are
cdef void out_watch(const core_t *c, conn_t *conn) noexcept      # the age of its bytes is measured from here
cdef bint out_mark(core_t *c, uint32_t slot, int64_t end, uint64_t token) noexcept
cdef admission out_admit(core_t *c, uint32_t slot, size_t size) noexcept
# Sends without copying; what the kernel refuses is appended. Only where the buffer is empty.
cdef bint out_send(core_t *c, uint32_t slot, const uint8_t *data, size_t size) noexcept        # False: DOOMED
cdef bint out_flush(core_t *c, uint32_t slot) noexcept   # False: the socket failed (DOOMED)
cdef void out_queue(core_t *c, uint32_t slot) noexcept   # flush at the end of the engine call
cdef void out_drop(core_t *c, uint32_t slot) noexcept    # frees the buffer; what waited ends as dropped
