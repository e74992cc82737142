# Leases; lease.pyi describes them.

from libc.stdint cimport int64_t


cdef class Lease:
    cdef readonly str client_id
    cdef readonly str node_id
    cdef readonly int64_t epoch
    cdef readonly str user_id
