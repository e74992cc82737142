# Counts outcomes; tally.pyi describes it.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from zpush._fast.priority cimport PRIORITIES

cdef enum:
    OUTCOMES = 32                # protocol.message.Outcome is below
    BUCKETS = 16                 # the last is "inf"

cdef struct columns_t:           # of one priority
    uint32_t outcome[OUTCOMES]
    uint32_t taken[2]            # for the first time; redelivered
    uint32_t bucket[BUCKETS]
    uint32_t sum_us


cdef class Outcomes:
    cdef uint64_t *cells         # borrowed from `view`
    cdef memoryview view         # keeps them alive
    cdef columns_t columns[PRIORITIES]
    cdef int64_t bounds_ms[BUCKETS]
    cdef uint32_t bounds
    cdef uint32_t delivered
    cdef uint32_t apart

    cdef columns_t *add(self, uint32_t priority, bint redelivered, uint32_t outcome, uint64_t amount) except NULL
    cpdef count_all(self, uint32_t priority, bint redelivered, counts)
    cpdef settle(self, uint32_t priority, bint redelivered, uint32_t outcome, int64_t queued_ms)
