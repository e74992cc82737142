"""One message for one client, to be routed.

Rules. Who has it routed says in a subclass, of Python or C, what its outcome means: settle().
"""

from zpush._fast.priority cimport rank_of


cdef class Job:
    def __init__(self, message, str client_id not None, double deadline_s=0.0):
        self.about(message, client_id)
        self.deadline_s = deadline_s

    @property
    def message(self):
        return self.whole

    cdef int about(self, message, str client_id) except -1:
        self.whole, self.client_id = message, client_id
        self.id, self.payload, self.kind, self.token = message.id, message.payload, message.kind, message.secure_token
        self.ack_wait_ms, self.expires_ms, self.queued_ms = message.ack_wait_ms, message.expires_ms, message.queued_ms
        self.priority = rank_of(message.priority)
        return 0

    cpdef settle(self, outcome, str node_id):
        raise NotImplementedError

    def settle_unknown(self, outcome):
        self.settle(outcome, "")
