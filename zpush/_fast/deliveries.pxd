# What senders say: batches to named clients, broadcasts to all.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zpush._fast.deadlines cimport Deadlines
from zpush._fast.outbound cimport outcome

cdef enum:
    SENDS_A_TURN = 128

cdef struct placed_t:            # where a message of the batch at hand went
    uint64_t handle
    int64_t end                  # behind its last byte, counted as conn_t.taken is

cdef class Broadcast:
    cdef uint64_t token
    cdef bytes message_id, payload
    cdef uint8_t kind
    cdef dict counts             # outcome → connections
    cdef uint32_t pending        # connections where it waits in the write buffer
    cdef bint passed             # the cursor went through

cdef class Pass:                 # one walk over all connections, for all broadcasts that waited at its start
    cdef list broadcasts
    cdef list bytes_by_protocol  # [None, raw, v1, event stream], built when first needed
    cdef list ends_by_protocol   # where each broadcast's bytes end
    cdef uint32_t cursor
    cdef uint64_t delivered      # connections that took all of it at once
    cdef uint64_t dropped        # connections whose socket failed

cdef class Deliveries(Deadlines):
    cdef object encode_v1
    cdef uint64_t next_token
    cdef list waiting            # broadcasts of the next pass
    cdef dict unsettled          # token → Broadcast
    cdef Pass current

    cdef uint8_t place(self, bytes client_id, bytes message_id, bytes payload, uint8_t kind, placed_t *placed) except? 255
    cdef uint8_t _outcome(self, placed_t *placed) except? 255
    cdef bint put_message(self, uint32_t slot, bytes message_id, bytes payload, uint8_t kind) except? False
    cdef bint step_broadcasts(self) except? False
    cdef int broadcast_to(self, uint32_t slot) except -1
    cdef int broadcast_within_rate(self, uint32_t slot) except -1
    cdef int append_first(self, uint32_t slot, Py_ssize_t count) except -1
    cdef int _count_some(self, Py_ssize_t begin, Py_ssize_t end, uint8_t outcome) except -1
    cdef int _mark_first(self, uint32_t slot, Py_ssize_t count, int64_t start) except -1
    cdef bytes _encode(self, Broadcast broadcast, uint8_t protocol)
    cdef bytes pass_bytes(self, uint8_t protocol)
    cdef int finish_pass(self) except -1
    cdef int conclude(self, Broadcast broadcast) except -1
