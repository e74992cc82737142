# The life of a connection: accepted, bound, opened, closed, gone.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zpush._fast.bucket cimport rate_t
from zpush._fast.core cimport conn_t, core_t

cdef enum:
    KNOWN_CODES = 32
    CLOSE_SHUTDOWN = 1001
    CLOSE_ABNORMAL = 1006
    CLOSE_REPLACED = 4002
    CLOSE_SLOW = 4004
    CLOSE_TOO_MANY = 4008
    CLOSE_WAIT_S = 5             # for the client's half of a closing handshake, or its FIN
    LINGER_S = 2                 # for the client's FIN after an HTTP answer

cdef class Connections:
    cdef core_t core
    cdef object on_request, on_message, on_close, on_settled, on_broadcast
    cdef object call_soon, run_bound
    cdef dict columns
    cdef bint scheduled
    cdef uint16_t codes[KNOWN_CODES]
    cdef uint32_t code_columns[KNOWN_CODES]
    cdef uint32_t codes_known
    cdef memoryview cells                # keeps core.cells alive

    cdef int read_limits(self, object limits) except -1
    cdef void set_rates(self, rate_t inbound, rate_t outbound) noexcept
    cdef int start_closing(self, uint32_t slot, uint16_t code, const uint8_t *reason, size_t size, bint answered) except -1
    cdef int end(self, uint32_t slot, uint16_t code) except -1
    cdef int give_up(self, uint32_t slot) except -1
    cdef int _put_last_event(self, uint32_t slot, uint16_t code) except -1
    cdef object unbind(self, uint32_t slot, uint16_t code)
    cdef uint32_t gauge(self, const conn_t *conn) noexcept
    cdef uint32_t _code_column(self, uint16_t code) noexcept
    cdef void decide(self, uint32_t slot, uint32_t result) noexcept
    cdef void _free(self, uint32_t slot) noexcept
    cdef bint flushing
    cdef int flush_queued(self) except -1
    cdef int _flush_all(self) except -1
    cdef void finish(self, uint32_t slot) noexcept
    cdef int shed(self) except -1
    cdef int notify(self) except -1
    cdef int settle(self, list settled) except -1
    cdef int schedule(self) except -1
    cdef void arm_liveness(self, uint32_t slot, uint32_t seconds) noexcept
    cdef void arm_keepalive(self, uint32_t slot) noexcept
    cdef bint put_frame(self, uint32_t slot, uint8_t opcode, const uint8_t *payload, size_t size) noexcept
