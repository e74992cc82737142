# RFC 6455 frames, sans-IO. Bytes in, events out; and headers for what is sent.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    OP_CONTINUATION = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10

cdef enum frame_event_kind:
    EVENT_NEED_MORE = 0          # all input was consumed
    EVENT_MESSAGE = 1            # opcode, payload: a whole message
    EVENT_PING = 2               # payload
    EVENT_PONG = 3               # payload
    EVENT_CLOSE = 4              # code (1005 where none was sent), payload = reason
    EVENT_ERROR = 5              # code (1002, 1007, 1009), reason: a static C string for the developer
    EVENT_NO_MEMORY = 6

cdef struct frame_event:
    frame_event_kind kind
    uint8_t opcode
    uint16_t code
    const uint8_t *payload       # borrowed: valid until the next call with the same reader or input
    size_t payload_bytes
    const char *reason           # static
    bint fragmented              # the error is the number of the message's frames

cdef struct frame_limits:
    uint64_t message_bytes       # of one message, all its fragments together
    uint32_t fragments           # frames of one message

cdef struct frame_reader:        # all zero = at a message boundary
    uint8_t header[14]
    uint8_t header_have
    uint8_t opcode               # of the frame whose payload is being read
    uint8_t fin
    uint8_t in_frame             # the header is complete, payload follows
    uint8_t message_opcode       # of the message in progress; 0 = none
    uint8_t control_have
    uint8_t control[125]         # payload of a partial control frame
    uint8_t mask[4]
    uint32_t utf8_state
    uint32_t fragments
    uint64_t remaining           # payload bytes of this frame still to come
    uint64_t frame_offset        # payload bytes of this frame already read (the mask's phase)
    uint8_t *message             # owned; what came of the message so far
    size_t message_have
    size_t message_room

# Reads from data (unmasking in place) until one event is complete or the input ends. *consumed bytes were used.
# Client frames must be masked. After EVENT_ERROR the reader must not be used again, only freed.
cdef void frame_next(frame_reader *r, uint8_t *data, size_t size, const frame_limits *limits,
                     frame_event *out, size_t *consumed) noexcept nogil
cdef bint frame_idle(const frame_reader *r) noexcept nogil      # at a message boundary: nothing worth keeping
# Owned message memory given back after its EVENT_MESSAGE was handled; keeps the rest of the state.
cdef void frame_release(frame_reader *r) noexcept nogil
cdef void frame_reader_free(frame_reader *r) noexcept nogil     # frees what the struct owns, zeroes it

# Server frames: not masked. Writes at most 10 bytes; returns how many.
cdef size_t frame_header(uint8_t *out, uint8_t opcode, uint64_t payload_bytes) noexcept nogil
cdef bint close_code_valid(uint16_t code) noexcept nogil        # may stand on the wire (RFC 6455 §7.4)
cdef void mask_bytes(uint8_t *data, size_t size, const uint8_t *mask, uint64_t phase) noexcept nogil
cdef uint32_t utf8_step(uint32_t state, const uint8_t *data, size_t size) noexcept nogil  # 0 accept, 1 reject, else partial
