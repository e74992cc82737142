"""Server-sent events (WHATWG HTML, 9.2): one event's bytes, their number known before the first is written.

Rules

- What a parser hands on is what was given: data of any bytes, split at each CRLF, CR and LF, one `data:` line a
  piece. A parser joins them with LF, so the kind of a newline is lost (the format cannot keep it) and
  nothing else is. Empty data is one empty `data:` line, without which a browser would dispatch nothing.
- An id cannot forge a field. One with LF or CR in it would end its line, one with NUL is ignored by every parser, so
  the `id:` line is left out for these; the client keeps its earlier Last-Event-ID. It is left out for an empty
  id too, which would make the client forget it.
- The event's name is a constant of the program, without newlines (the Python wrapper checks it).
- Fields end in LF. A space follows the colon always, as parsers strip exactly one: a line that begins with a space
  keeps it.

Theory

Writer and measure walk the same lines with the same cursor, so they cannot disagree. The cursor remembers where
the next LF and the next CR are, and looks again only once it has passed them: memchr runs over each byte at
most twice, also where a hostile sender wrote 64 KiB of nothing but CR.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcpy, strlen
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef enum:                       # of a field's name, colon and space; its LF is one more
    ID_BYTES = 4
    EVENT_BYTES = 7
    DATA_BYTES = 6

cdef struct lines_t:
    const uint8_t *at            # borrowed, as all of these: where the next line begins
    const uint8_t *end
    const uint8_t *lf            # the first LF at or behind `at`; end where there is none
    const uint8_t *cr            # the first CR likewise
    bint more


cdef const uint8_t *find(const uint8_t *at, const uint8_t *end, int what) noexcept nogil:
    cdef const void *found = NULL
    if at < end:                 # also keeps a NULL `at` of empty data away from memchr
        found = memchr(at, what, <size_t>(end - at))
    return <const uint8_t *>found if found != NULL else end


cdef void lines_start(lines_t *lines, const uint8_t *data, size_t size) noexcept nogil:
    lines.at = data
    lines.end = data + size
    lines.lf = find(data, lines.end, c'\n')
    lines.cr = find(data, lines.end, c'\r')
    lines.more = True


cdef size_t lines_next(lines_t *lines) noexcept nogil:
    """Moves behind the next line and its newline; returns its length. Behind a last newline is an empty line."""
    cdef const uint8_t *start = lines.at
    cdef const uint8_t *stop = lines.lf if lines.lf < lines.cr else lines.cr
    if stop == lines.end:
        lines.more = False
        return <size_t>(stop - start)
    lines.at = stop + 1
    if stop == lines.cr:
        if lines.at < lines.end and lines.at == lines.lf:
            lines.at += 1        # CRLF is one newline
        lines.cr = find(lines.at, lines.end, c'\r')
    if lines.lf < lines.at:
        lines.lf = find(lines.at, lines.end, c'\n')
    return <size_t>(stop - start)


cdef bint id_fits(const uint8_t *id, size_t id_bytes) noexcept nogil:
    cdef size_t i
    if id == NULL or id_bytes == 0:
        return False
    for i in range(id_bytes):
        if id[i] == c'\n' or id[i] == c'\r' or id[i] == 0:
            return False
    return True


cdef size_t sse_bytes(const char *event, const uint8_t *id, size_t id_bytes,
                      const uint8_t *data, size_t data_bytes) noexcept nogil:
    cdef lines_t lines
    cdef size_t total = 1        # the blank line
    if id_fits(id, id_bytes):
        total += ID_BYTES + id_bytes + 1
    if event != NULL:
        total += EVENT_BYTES + strlen(event) + 1
    lines_start(&lines, data, data_bytes)
    while lines.more:
        total += DATA_BYTES + lines_next(&lines) + 1
    return total


cdef uint8_t *field(uint8_t *out, const char *name, size_t name_bytes,
                    const void *value, size_t value_bytes) noexcept nogil:
    """Writes `name value LF`; returns where the next field goes."""
    memcpy(out, name, name_bytes)
    out += name_bytes
    if value_bytes:
        memcpy(out, value, value_bytes)
    out += value_bytes
    out[0] = c'\n'
    return out + 1


cdef size_t sse_write(uint8_t *out, const char *event, const uint8_t *id, size_t id_bytes,
                      const uint8_t *data, size_t data_bytes) noexcept nogil:
    cdef lines_t lines
    cdef uint8_t *at = out
    cdef const uint8_t *line
    if id_fits(id, id_bytes):
        at = field(at, b"id: ", ID_BYTES, id, id_bytes)
    if event != NULL:
        at = field(at, b"event: ", EVENT_BYTES, event, strlen(event))
    lines_start(&lines, data, data_bytes)
    while lines.more:
        line = lines.at
        at = field(at, b"data: ", DATA_BYTES, line, lines_next(&lines))
    at[0] = c'\n'
    return <size_t>(at + 1 - out)


cdef const uint8_t *bytes_of(bytes value) noexcept:
    """Borrowed from value; NULL for None."""
    if value is None:
        return NULL
    return <const uint8_t *>PyBytes_AS_STRING(value)


def encode_event(bytes data not None, bytes event=None, bytes id=None):
    if event is not None and any(byte in event for byte in b"\r\n\0"):
        raise ValueError("an event's name has no newline and no NUL")
    cdef const char *name = <const char *>bytes_of(event)
    cdef size_t id_bytes = len(id or b"")
    cdef size_t size = sse_bytes(name, bytes_of(id), id_bytes, bytes_of(data), len(data))
    encoded = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(encoded)
    cdef size_t written = sse_write(out, name, bytes_of(id), id_bytes, bytes_of(data), len(data))
    if written != size:
        raise SystemError(f"an event was measured at {size} bytes and written with {written}")
    return encoded
