# What a queue's consumer hands out; record.pyi describes it.

from libc.stdint cimport int64_t


cdef class Record:
    cdef object whole            # the message; None until somebody asks for it
    cdef object make             # makes it
    cdef readonly object priority
    cdef readonly int64_t partition
    cdef readonly object position
    cdef readonly bint redelivered
    cdef readonly bint copied
    cdef int rank                # the priority's number
    # Of the message, so that C need not ask for them. client_id: "" where it is not for one client.
    cdef str client_id
    cdef str id
    cdef bytes payload
    cdef object kind
    cdef str token
    cdef int64_t expires_ms
    cdef int64_t queued_ms

    cdef int stand_at(self, priority, int64_t partition, position, bint redelivered, bint copied) except -1
    cdef int about(self, message) except -1
