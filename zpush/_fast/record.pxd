# What a queue's consumer hands out; record.pyi describes it.

from libc.stdint cimport int64_t


cdef class Record:
    cdef readonly object message
    cdef readonly object priority
    cdef readonly int64_t partition
    cdef readonly object position
    cdef readonly bint redelivered
    cdef readonly bint copied
    # Of the message, so that C need not ask for them.
    cdef int rank                # the priority's number
    cdef int64_t expires_ms
    cdef int64_t queued_ms
    cdef Py_ssize_t payload_bytes

cdef Record made(message, priority, int64_t partition, position, bint redelivered, bint copied)
