"""What a queue's consumer hands out: a message and where it stands.

Rules. Many are made and forgotten with every batch: those forgotten last are kept to be made anew.
"""

cimport cython
from libc.stdint cimport int64_t

cdef enum:
    PRIORITIES = 3


@cython.final
@cython.no_gc  # it refers to nothing that could refer to it
@cython.freelist(1000)
cdef class Record:
    def __init__(self, message, priority, int64_t partition, position, bint redelivered=False, bint copied=False):
        set_up(self, message, priority, partition, position, redelivered, copied)


cdef Record made(message, priority, int64_t partition, position, bint redelivered, bint copied):
    """Without a call of the type, which would cost as much again."""
    cdef Record record = Record.__new__(Record)
    set_up(record, message, priority, partition, position, redelivered, copied)
    return record


cdef inline int set_up(
    Record record, message, priority, int64_t partition, position, bint redelivered, bint copied
) except -1:
    record.message, record.priority, record.partition, record.position = message, priority, partition, position
    record.redelivered, record.copied = redelivered, copied
    record.expires_ms, record.queued_ms, record.payload_bytes = message.expires_ms, message.queued_ms, len(message.payload)
    record.rank = priority
    if not 0 <= record.rank < PRIORITIES:
        raise ValueError(f"no priority {record.rank}")
    return 0


def by_priority(records):
    cdef list found = [[] for _ in range(PRIORITIES)]
    cdef Record record
    for record in records:
        (<list>found[record.rank]).append(record)
    return found
