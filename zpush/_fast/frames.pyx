"""RFC 6455 frames, sans-IO: what a client sends becomes events, what is sent to it gets a header.

Rules

- Bytes in, events out: no socket, no clock, no log, no Python object below the wrappers at the end. The caller
  owns the input and may hand it over in any pieces: the events are the same.
- A violation is an answer, EVENT_ERROR with a close code, as early as the bytes allow it:
  1002 for what the framing forbids, 1007 at the first byte that no UTF-8 text can contain, 1009 for a message past
  the limits, from its header and before its payload. A message of too many fragments is 1009 too: it is
  "too big to process" (§7.4.1) in another unit.
- A frame that claims 2^63 or more is 1002 (§5.2: the top bit must be 0), below that 1009.
- Memory grows with the bytes that came, by doubling, never past the limit and never to what a header merely claims.
- Nothing is sent from here. After EVENT_CLOSE the caller drops what follows (§5.5.1); after
  EVENT_ERROR and EVENT_NO_MEMORY the reader is only good for freeing.

Theory

Two states, header and payload. Header bytes gather in 14 bytes of the reader. A payload is unmasked where it
lies, in the caller's input. Where a message is one frame and the input holds all of it, which is what
clients send nearly always, its event borrows the input: no copy and no memory. Everything else (partial frames,
fragments) is appended to the reader's own message. Control frames have a place apart, as they may come
between the fragments of a message (§5.4).

Text is checked as it comes. The state between two bytes of a character is one number: how many bytes are
to follow and the range of the next one, which after E0, ED, F0 and F4 is narrower than 80..BF. That narrow range is
all that overlong forms, surrogates and code points past 10FFFF need to be refused at once (Unicode 15, table 3-7).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef enum:
    # §5.2, first byte: FIN, three reserved bits, opcode; second: MASK, 7 bits of length
    FIN = 0x80
    RESERVED_BITS = 0x70
    OPCODE_BITS = 0x0F
    MASKED = 0x80
    LENGTH_BITS = 0x7F
    LENGTH_16 = 126              # the length follows in 16 bits
    LENGTH_64 = 127
    MASK_BYTES = 4
    CONTROL_MAX_BYTES = 125      # §5.5

    PROTOCOL_ERROR = 1002
    NO_CODE = 1005
    INVALID_TEXT = 1007
    TOO_BIG = 1009

    UTF8_ACCEPT = 0
    UTF8_REJECT = 1

    FIRST_ROOM_BYTES = 512       # of a message's memory: below it malloc's own overhead would show

cdef uint64_t EACH_TOP_BIT = 0x8080808080808080

cdef int64_t allocated = 0
cdef int64_t freed = 0


# --- reading ---

cdef void frame_next(frame_reader *r, uint8_t *data, size_t size, const frame_limits *limits,
                     frame_event *out, size_t *consumed) noexcept nogil:
    cdef size_t used = 0
    memset(out, 0, sizeof(frame_event))      # EVENT_NEED_MORE
    while True:
        if not r.in_frame:
            used += read_header(r, data + used, size - used, limits, out)
            if not r.in_frame:               # the input ended, or an error
                break
        used += read_payload(r, data + used, size - used, limits, out)
        if r.in_frame or out.kind != EVENT_NEED_MORE:
            break
    consumed[0] = used


cdef void fail(frame_event *out, uint16_t code, const char *reason) noexcept nogil:
    out.kind = EVENT_ERROR
    out.code = code
    out.reason = reason
    out.fragmented = False


cdef size_t read_header(frame_reader *r, const uint8_t *data, size_t size, const frame_limits *limits,
                        frame_event *out) noexcept nogil:
    """Returns how many bytes it used. The frame has begun once r.in_frame is set."""
    cdef size_t used = 0
    cdef size_t need
    if r.header_have < 2:
        used = gather(r, data, size, 2)
        if r.header_have < 2 or not start_allowed(r, out):
            return used
    need = header_bytes(r.header[1])
    used += gather(r, data + used, size - used, need)
    if r.header_have == need:
        begin_frame(r, limits, out)
    return used


cdef inline size_t gather(frame_reader *r, const uint8_t *data, size_t size, size_t need) noexcept nogil:
    cdef size_t n = 0
    while r.header_have < need and n < size:
        r.header[r.header_have] = data[n]
        r.header_have += 1
        n += 1
    return n


cdef inline size_t header_bytes(uint8_t second) noexcept nogil:
    cdef uint8_t length = second & LENGTH_BITS
    return 2 + (2 if length == LENGTH_16 else 8 if length == LENGTH_64 else 0) + MASK_BYTES


cdef bint start_allowed(frame_reader *r, frame_event *out) noexcept nogil:
    """What the first two bytes say already. Sets opcode and FIN; False after an error."""
    r.fin = r.header[0] & FIN
    r.opcode = r.header[0] & OPCODE_BITS
    if r.header[0] & RESERVED_BITS:
        fail(out, PROTOCOL_ERROR, b"reserved bit set")
    elif not r.header[1] & MASKED:
        fail(out, PROTOCOL_ERROR, b"frame of a client not masked")
    elif r.opcode >= OP_CLOSE:
        if r.opcode > OP_PONG:
            fail(out, PROTOCOL_ERROR, b"reserved opcode")
        elif not r.fin:
            fail(out, PROTOCOL_ERROR, b"control frame fragmented")
        elif r.header[1] & LENGTH_BITS > CONTROL_MAX_BYTES:
            fail(out, PROTOCOL_ERROR, b"control frame past 125 bytes")
    elif r.opcode > OP_BINARY:
        fail(out, PROTOCOL_ERROR, b"reserved opcode")
    elif r.opcode == OP_CONTINUATION and not r.message_opcode:
        fail(out, PROTOCOL_ERROR, b"continuation of no message")
    elif r.opcode != OP_CONTINUATION and r.message_opcode:
        fail(out, PROTOCOL_ERROR, b"new message amid fragments")
    return out.kind != EVENT_ERROR


cdef void begin_frame(frame_reader *r, const frame_limits *limits, frame_event *out) noexcept nogil:
    cdef uint8_t short_length = r.header[1] & LENGTH_BITS
    cdef uint64_t length = short_length
    if short_length == LENGTH_16:
        length = big_endian(&r.header[2], 2)
        if length < LENGTH_16:
            fail(out, PROTOCOL_ERROR, b"length not in its shortest form")
            return
    elif short_length == LENGTH_64:
        length = big_endian(&r.header[2], 8)
        if length >> 63:
            fail(out, PROTOCOL_ERROR, b"length with its top bit set")
            return
        if length <= 0xFFFF:
            fail(out, PROTOCOL_ERROR, b"length not in its shortest form")
            return
    if r.opcode < OP_CLOSE and not begin_data(r, length, limits, out):
        return
    memcpy(r.mask, &r.header[r.header_have - MASK_BYTES], MASK_BYTES)
    r.header_have = 0
    r.control_have = 0
    r.in_frame = 1
    r.remaining = length
    r.frame_offset = 0


cdef inline uint64_t big_endian(const uint8_t *data, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = (value << 8) | data[i]
    return value


cdef bint begin_data(frame_reader *r, uint64_t length, const frame_limits *limits, frame_event *out) noexcept nogil:
    """Takes a frame up into its message, or refuses it for the message's size; False after an error."""
    if not r.message_opcode:
        r.message_opcode = r.opcode
        r.message_have = 0
        r.fragments = 0
        r.utf8_state = UTF8_ACCEPT
    if r.fragments >= limits.fragments:
        fail(out, TOO_BIG, b"message of too many fragments")
        out.fragmented = True
        return False
    r.fragments += 1
    # Compared so that it cannot overflow; have may be past a limit that was lowered meanwhile.
    if length > limits.message_bytes or r.message_have > limits.message_bytes - length:
        fail(out, TOO_BIG, b"message too big")
        return False
    return True


cdef size_t read_payload(frame_reader *r, uint8_t *data, size_t size, const frame_limits *limits,
                         frame_event *out) noexcept nogil:
    """Returns how many bytes it used. The frame has ended once r.in_frame is clear."""
    cdef size_t n = size if size < r.remaining else <size_t>r.remaining
    cdef bint whole = n > 0 and n == r.remaining and r.frame_offset == 0
    mask_bytes(data, n, r.mask, r.frame_offset)
    r.frame_offset += n
    r.remaining -= n
    r.in_frame = r.remaining > 0
    if r.opcode >= OP_CLOSE:
        take_control(r, data, n, whole, out)
    else:
        take_data(r, data, n, whole, limits, out)
    return n


cdef void take_control(frame_reader *r, const uint8_t *data, size_t n, bint whole, frame_event *out) noexcept nogil:
    if not whole:
        memcpy(r.control + r.control_have, data, n)
        r.control_have += <uint8_t>n
        if r.in_frame:
            return
        data = r.control
        n = r.control_have
    out.opcode = r.opcode
    out.payload = data
    out.payload_bytes = n
    if r.opcode == OP_PING:
        out.kind = EVENT_PING
    elif r.opcode == OP_PONG:
        out.kind = EVENT_PONG
    else:
        take_close(out)


cdef void take_close(frame_event *out) noexcept nogil:
    """Splits the payload of a close frame into code and reason (§5.5.1)."""
    cdef uint16_t code = NO_CODE
    if out.payload_bytes == 1:
        fail(out, PROTOCOL_ERROR, b"close frame of one byte")
        return
    if out.payload_bytes:
        code = <uint16_t>big_endian(out.payload, 2)
        out.payload += 2
        out.payload_bytes -= 2
        if not close_code_valid(code):
            fail(out, PROTOCOL_ERROR, b"close code not allowed on the wire")
            return
        if utf8_step(UTF8_ACCEPT, out.payload, out.payload_bytes) != UTF8_ACCEPT:
            fail(out, INVALID_TEXT, b"close reason not UTF-8")
            return
    out.kind = EVENT_CLOSE
    out.code = code


cdef void take_data(frame_reader *r, const uint8_t *data, size_t n, bint whole, const frame_limits *limits,
                    frame_event *out) noexcept nogil:
    cdef bint last = r.fin and not r.in_frame
    if r.message_opcode == OP_TEXT:
        r.utf8_state = utf8_step(r.utf8_state, data, n)
        if r.utf8_state == UTF8_REJECT or (last and r.utf8_state != UTF8_ACCEPT):
            fail(out, INVALID_TEXT, b"text not UTF-8")
            return
    if not (whole and last and r.message_have == 0):
        if not append(r, data, n, limits):
            out.kind = EVENT_NO_MEMORY
            return
        if not last:
            return
        data = r.message if r.message != NULL else r.control      # never NULL, also of an empty message
        n = r.message_have
    out.kind = EVENT_MESSAGE
    out.opcode = r.message_opcode
    out.payload = data
    out.payload_bytes = n
    r.message_opcode = 0
    r.message_have = 0                       # the memory stays until frame_release or the next message


# --- the reader's memory ---

cdef bint append(frame_reader *r, const uint8_t *data, size_t n, const frame_limits *limits) noexcept nogil:
    if r.message_room - r.message_have < n and not make_room(r, n, limits):
        return False
    if n:
        memcpy(r.message + r.message_have, data, n)
        r.message_have += n
    return True


cdef bint make_room(frame_reader *r, size_t n, const frame_limits *limits) noexcept nogil:
    """Room for n more bytes, and for about as many again. False where memory ran out: nothing changed."""
    global allocated
    cdef size_t need = r.message_have + n
    cdef size_t room = r.message_room * 2
    # Of a last frame the message's size is known, and more would never be used; before that the limit is all we know.
    cdef uint64_t most = need + r.remaining if r.fin else limits.message_bytes
    cdef uint8_t *grown
    if room < FIRST_ROOM_BYTES:
        room = FIRST_ROOM_BYTES
    if room > most:
        room = <size_t>most
    if room < need:
        room = need
    grown = <uint8_t *>realloc(r.message, room)
    if grown == NULL:
        return False
    if r.message == NULL:
        allocated += 1
    r.message = grown
    r.message_room = room
    return True


cdef bint frame_idle(const frame_reader *r) noexcept nogil:
    # Memory not yet released counts as worth keeping, so that nobody drops an idle reader and leaks it.
    return not (r.header_have or r.in_frame or r.message_opcode or r.message != NULL)


cdef void frame_release(frame_reader *r) noexcept nogil:
    global freed
    if r.message == NULL or r.message_have:  # bytes in it are of a message still under way
        return
    free(r.message)
    freed += 1
    r.message = NULL
    r.message_room = 0


cdef void frame_reader_free(frame_reader *r) noexcept nogil:
    r.message_have = 0
    frame_release(r)
    memset(r, 0, sizeof(frame_reader))


# --- writing, and what both directions share ---

cdef size_t frame_header(uint8_t *out, uint8_t opcode, uint64_t payload_bytes) noexcept nogil:
    cdef int i
    out[0] = FIN | opcode
    if payload_bytes < LENGTH_16:
        out[1] = <uint8_t>payload_bytes
        return 2
    if payload_bytes <= 0xFFFF:
        out[1] = LENGTH_16
        out[2] = <uint8_t>(payload_bytes >> 8)
        out[3] = <uint8_t>payload_bytes
        return 4
    out[1] = LENGTH_64
    for i in range(8):
        out[2 + i] = <uint8_t>(payload_bytes >> (56 - 8 * i))
    return 10


cdef bint close_code_valid(uint16_t code) noexcept nogil:
    # 1012 to 1014 came after the RFC, through IANA's registry (§11.7). 1004 to 1006 and 1015 never stand on the wire.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef void mask_bytes(uint8_t *data, size_t size, const uint8_t *mask, uint64_t phase) noexcept nogil:
    """XOR with the masking key (§5.3), which is its own inverse; phase: bytes of the frame already done."""
    cdef uint8_t[8] key
    cdef uint64_t wide, word
    cdef size_t i = 0
    cdef int k
    for k in range(8):
        key[k] = mask[(phase + k) & 3]
    memcpy(&wide, key, 8)        # in memory order: no endianness here
    while size - i >= 8:
        memcpy(&word, data + i, 8)
        word ^= wide
        memcpy(data + i, &word, 8)
        i += 8
    for k in range(<int>(size - i)):
        data[i + k] ^= key[k]


cdef uint32_t utf8_step(uint32_t state, const uint8_t *data, size_t size) noexcept nogil:
    # A partial state is (bytes to follow << 16) | (least next byte << 8) | greatest next byte.
    cdef uint64_t word
    cdef size_t i = 0
    if state == UTF8_REJECT:
        return UTF8_REJECT
    while i < size:
        if state != UTF8_ACCEPT:
            if data[i] < (state >> 8) & 0xFF or data[i] > state & 0xFF:
                return UTF8_REJECT
            state = ((state >> 16) - 1) << 16 | 0x80BF if state >> 16 > 1 else UTF8_ACCEPT
            i += 1
            continue
        while size - i >= 8:     # text is ASCII for the most part: eight bytes a step
            memcpy(&word, data + i, 8)
            if word & EACH_TOP_BIT:
                break
            i += 8
        while i < size and data[i] < 0x80:
            i += 1
        if i == size:
            break
        state = utf8_lead(data[i])
        if state == UTF8_REJECT:
            return UTF8_REJECT
        i += 1
    return state


cdef inline uint32_t utf8_lead(uint8_t byte) noexcept nogil:
    """The state behind the first byte of a character that has several."""
    if byte < 0xC2:              # a continuation, or C0 and C1: overlong always
        return UTF8_REJECT
    if byte < 0xE0:
        return 0x180BF
    if byte < 0xF0:
        return 0x2A0BF if byte == 0xE0 else 0x2809F if byte == 0xED else 0x280BF
    if byte < 0xF5:
        return 0x390BF if byte == 0xF0 else 0x3808F if byte == 0xF4 else 0x380BF
    return UTF8_REJECT


# --- for Python: tests and benchmarks; the engine uses the C functions ---

MESSAGE = EVENT_MESSAGE
PING = EVENT_PING
PONG = EVENT_PONG
CLOSE = EVENT_CLOSE
ERROR = EVENT_ERROR


def allocations() -> tuple:
    """(allocated, freed): blocks of message memory, since the module was loaded."""
    return allocated, freed


def encode_header(uint8_t opcode, uint64_t payload_bytes):
    cdef uint8_t[10] header
    return PyBytes_FromStringAndSize(<const char *>header, frame_header(header, opcode, payload_bytes))


def encode_frame(uint8_t opcode, bytes payload not None):
    return encode_header(opcode, len(payload)) + payload


def is_close_code(uint16_t code):
    return bool(close_code_valid(code))


def mask(bytes data not None, bytes key not None, uint64_t phase=0):
    if len(key) != MASK_BYTES:
        raise ValueError("a masking key has four bytes")
    cdef bytearray copy = PyByteArray_FromStringAndSize(PyBytes_AS_STRING(data), len(data))
    mask_bytes(<uint8_t *>PyByteArray_AS_STRING(copy), len(data), <const uint8_t *>PyBytes_AS_STRING(key), phase)
    return bytes(copy)


def utf8(uint32_t state, bytes data not None):
    return utf8_step(state, <const uint8_t *>PyBytes_AS_STRING(data), len(data))


cdef class FrameReader:
    """A frame_reader and its limits. Copies each input, as frame_next unmasks it in place."""

    cdef frame_reader reader
    cdef frame_limits limits
    cdef bint failed

    def __cinit__(self, uint64_t message_bytes, uint32_t fragments):
        self.limits.message_bytes = message_bytes
        self.limits.fragments = fragments

    def __dealloc__(self):
        frame_reader_free(&self.reader)

    @property
    def idle(self):
        return bool(frame_idle(&self.reader))

    @property
    def room_bytes(self):
        return self.reader.message_room

    def feed(self, bytes data not None):
        if self.failed:
            raise ValueError("this reader has failed")
        cdef bytearray copy = PyByteArray_FromStringAndSize(PyBytes_AS_STRING(data), len(data))
        cdef uint8_t *at = <uint8_t *>PyByteArray_AS_STRING(copy)
        cdef size_t left = len(data)
        cdef size_t used
        cdef frame_event event
        cdef list events = []
        while True:
            frame_next(&self.reader, at, left, &self.limits, &event, &used)
            at += used
            left -= used
            if event.kind == EVENT_NEED_MORE:
                break
            if event.kind == EVENT_NO_MEMORY:
                self.failed = True
                raise MemoryError()
            events.append(event_tuple(&event))
            if event.kind == EVENT_ERROR:
                self.failed = True
                return events
        frame_release(&self.reader)
        return events


cdef tuple event_tuple(const frame_event *event):
    if event.kind == EVENT_ERROR:
        return event.kind, event.opcode, event.code, b"", (<bytes>event.reason).decode("ascii")
    payload = PyBytes_FromStringAndSize(<const char *>event.payload, event.payload_bytes)
    return event.kind, event.opcode, event.code, payload, ""
