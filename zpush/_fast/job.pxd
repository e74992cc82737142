# One message for one client, to be routed; job.pyi describes it.

from libc.stdint cimport int64_t


cdef class Job:
    cdef object whole            # the message; None where a subclass has it
    cdef readonly str client_id
    cdef public double deadline_s
    cdef public double end_s
    cdef public int64_t order
    # Of the message, so that C need not ask for them.
    cdef str id
    cdef bytes payload
    cdef object kind
    cdef str token
    cdef int64_t ack_wait_ms
    cdef int64_t expires_ms
    cdef int64_t queued_ms
    cdef int priority

    cdef int about(self, message, str client_id) except -1
    cpdef settle(self, outcome, str node_id)
