# Clients' lines of waiting messages; lines.pyi describes them.

from libc.stdint cimport int64_t

from zpush._fast.job cimport Job


cdef class Line:
    cdef public str client_id
    cdef public object priority
    cdef public list jobs
    cdef public object flight
    cdef public dict pending
    cdef public str owner
    cdef public object lease
    cdef public int64_t seen
    cdef public bint busy
    cdef public bint rechecked
    cdef public bint blind
    cdef public bint parked
    cdef public Py_ssize_t tries
    cdef public double due_s
    cdef public Py_ssize_t parked_jobs
    cdef public Py_ssize_t parked_bytes
    cdef int rank

    cpdef double until_s(self, Job job)
    cpdef stand(self, Job job)
    cpdef take_back(self, jobs)
