"""A request head (RFC 9112), sans-IO: its bytes in, its parts out.

Rules

- Nothing is repaired or guessed. What two servers could read in two ways (a bare CR or LF, obs-fold, a space before a
  colon, a field twice that may come once) is malformed: a proxy in front may have read it the other way.
- A line is one class of bytes after the other. CR is in no class, and a head ends in CRLF CRLF, which is looked at
  first: so every scan ends within the head, and nothing has to be counted.
- How long a head may be is for who collects it; what its fields mean, for protocol/head.py and those who call that.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, strncmp

cdef enum:                       # classes of bytes
    TOKEN = 1                    # RFC 9110 §5.6.2
    WHITE = 2                    # OWS
    VALUE = 4                    # of a field: HTAB, SP, VCHAR, obs-text
    TARGET = 8                   # VCHAR but `#`: a fragment is never sent (RFC 9112 §3.2)

cdef uint8_t[256] CLASSES
cdef uint8_t[256] LOWER

cdef frozenset METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
cdef frozenset SINGLE = frozenset((
    b"host", b"upgrade", b"origin", b"authorization", b"content-length", b"last-event-id", b"sec-websocket-key",
    b"sec-websocket-version", b"sec-fetch-site",
))


cdef int fill_tables() except -1:
    cdef bytes token = b"!#$%&'*+-.^_`|~"
    cdef int i
    for i in range(256):
        LOWER[i] = i + 32 if c"A" <= i <= c"Z" else i
        if c"a" <= LOWER[i] <= c"z" or c"0" <= i <= c"9" or i in token:
            CLASSES[i] |= TOKEN
        if i == c" " or i == c"\t":
            CLASSES[i] |= WHITE | VALUE
        if (c" " < i and i < 127) or i >= 128:
            CLASSES[i] |= VALUE
        if c" " < i and i < 127 and i != c"#":
            CLASSES[i] |= TARGET
    return 0


fill_tables()


def parse(bytes head not None):
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(head)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(head)
    cdef const uint8_t *begin = at
    cdef str method, path
    cdef bytes query
    cdef dict fields = {}
    if end - at < 4 or memcmp(end - 4, b"\r\n\r\n", 4) != 0:
        raise ValueError("no blank line at the end of the request head")
    at = skip(begin, TOKEN)
    method = text(begin, at)
    if at[0] != c" " or method not in METHODS:
        raise ValueError("not an HTTP request")
    begin = at + 1
    at = skip(begin, TARGET)
    if at[0] != c" " or at == begin:
        raise ValueError("no request target, or a character in it that must be percent-encoded")
    path, query = split_target(begin, at)
    begin = at
    # The string ends in NUL, so strncmp stops within it; whatever is equal so far has no CR in it.
    if strncmp(<const char *>at, b" HTTP/1.", 8) != 0 or not c"0" <= at[8] <= c"1" or at[9] != c"\r" or at[10] != c"\n":
        raise ValueError("not an HTTP/1.1 request")
    at += 11
    while at[0] != c"\r":
        at = read_field(at, fields)
    if end - at != 2:
        raise ValueError("a blank line within the request head, or bytes after it")
    return method, path, query, begin[8] == c"1", fields


def parameter(bytes query not None, bytes name not None):
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(query)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(query)
    cdef const uint8_t *stop
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
    cdef bytes found = None
    while at < end:
        stop = <const uint8_t *>memchr(at, c"&", end - at)
        if stop == NULL:
            stop = end
        if stop - at > size and at[size] == c"=" and memcmp(at, PyBytes_AS_STRING(name), size) == 0:
            if found is not None:
                raise ValueError(f"the query names {name.decode()} more than once")
            found = data(at + size + 1, stop)
        at = stop + 1
    return found


cdef tuple split_target(const uint8_t *begin, const uint8_t *end):
    cdef const uint8_t *mark = <const uint8_t *>memchr(begin, c"?", end - begin)
    if mark == NULL:
        return text(begin, end), b""
    return text(begin, mark), data(mark + 1, end)


cdef const uint8_t *read_field(const uint8_t *at, dict fields) except NULL:
    """Takes a field line; behind its CRLF is the next one."""
    cdef const uint8_t *begin = at
    cdef const uint8_t *end
    cdef bytes name, value
    at = skip(begin, TOKEN)
    if at[0] != c":" or at == begin:
        raise ValueError("a header line that does not begin with a name and a colon")
    name = lower(begin, at)
    begin = skip(at + 1, WHITE)
    at = skip(begin, VALUE)
    if at[0] != c"\r" or at[1] != c"\n":
        raise ValueError("a control character, or a line that does not end in CRLF, in the request head")
    end = at
    while end > begin and CLASSES[(end - 1)[0]] & WHITE:
        end -= 1
    value = data(begin, end)
    if name in fields:
        value = joined(name, fields[name], value)
    fields[name] = value
    return at + 2


cdef bytes joined(bytes name, bytes held, bytes value):
    """A list in several fields is one list (RFC 9110 §5.3); cookies have a separator of their own (RFC 9113 §8.2.3)."""
    if name in SINGLE:
        raise ValueError(f"more than one {name.decode()} header")
    return held + (b"; " if name == b"cookie" else b", ") + value


cdef inline const uint8_t *skip(const uint8_t *at, uint8_t cls) noexcept:
    while CLASSES[at[0]] & cls:
        at += 1
    return at


cdef inline bytes data(const uint8_t *begin, const uint8_t *end):
    return PyBytes_FromStringAndSize(<const char *>begin, end - begin)


cdef inline str text(const uint8_t *begin, const uint8_t *end):
    return (<const char *>begin)[:end - begin].decode("ascii")


cdef bytes lower(const uint8_t *begin, const uint8_t *end):
    cdef bytes name = PyBytes_FromStringAndSize(NULL, end - begin)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(name)
    cdef Py_ssize_t i
    for i in range(end - begin):
        to[i] = LOWER[begin[i]]
    return name
