# What time does to connections.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zpush._fast.inbound cimport Inbound

cdef enum:
    DUE_A_TURN = 128
    TRIM_BYTES = 4 << 20         # a tenth of what a small worker holds

cdef struct due_t:               # what a sweep found, worked off a bounded number a turn
    uint32_t *slots              # owned; one entry a slot, so untouched pages cost nothing
    uint32_t count
    uint32_t done

cdef class Deadlines(Inbound):
    cdef due_t silent            # liveness came due
    cdef due_t aged              # age came due
    cdef uint64_t peak_bytes     # the largest footprint since the heap was trimmed
    cdef uint32_t unswept_s      # time that passed while an earlier sweep was still being worked off

    cdef int pass_time(self, uint32_t elapsed_s) except -1
    cdef bint work_off(self) except? False
    cdef int on_silent(self, uint32_t slot) except -1
    cdef int on_aged(self, uint32_t slot) except -1
    cdef int ask_to_go(self, uint32_t slot, uint32_t grace_s) except -1
    cdef int drop_asked(self, uint32_t slot) except -1
    cdef int put_comment(self, uint32_t slot) except -1
    cdef int expire_unsent(self) except -1
    cdef void arm_age(self, uint32_t slot, uint32_t seconds) noexcept
    cdef int arm_end(self, uint32_t slot, uint32_t end_s) except -1
    cdef void give_back(self, uint64_t held_bytes) noexcept
    cdef uint64_t footprint(self) noexcept
