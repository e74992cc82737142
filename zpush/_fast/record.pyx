"""What a queue's consumer hands out: a message and where it stands.

Rules. Many are made and forgotten with every batch: those forgotten last are kept to be made anew. Of most of them C alone
asks what is in them: the message is made when anybody else does.
"""

cimport cython
from libc.stdint cimport int64_t

from zpush._fast.priority cimport PRIORITIES, rank_of

cdef enum:
    CLIENT = 0                   # protocol.message.Target


@cython.final
@cython.no_gc  # it refers to nothing that could refer to it
@cython.freelist(1000)
cdef class Record:
    def __init__(self, message, priority, int64_t partition, position, bint redelivered=False, bint copied=False):
        self.about(message)
        self.stand_at(priority, partition, position, redelivered, copied)

    @property
    def message(self):
        if self.whole is None:
            self.whole = self.make(
                self.id, self.client_id, self.payload, self.kind, self.priority, self.expires_ms, self.queued_ms
            )
        return self.whole

    cdef int stand_at(self, priority, int64_t partition, position, bint redelivered, bint copied) except -1:
        self.priority, self.partition, self.position = priority, partition, position
        self.redelivered, self.copied = redelivered, copied
        self.rank = rank_of(priority)
        return 0

    cdef int about(self, message) except -1:
        self.whole = message
        self.client_id = message.key if message.target == CLIENT else ""
        self.id, self.payload, self.kind, self.token = message.id, message.payload, message.kind, message.secure_token
        self.expires_ms, self.queued_ms = message.expires_ms, message.queued_ms
        return 0


def by_priority(records):
    cdef list found = [[] for _ in range(PRIORITIES)]
    cdef Record record
    for record in records:
        (<list>found[record.rank]).append(record)
    return found
