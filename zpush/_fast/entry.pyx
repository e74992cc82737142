"""Reads stream entries and Kafka records as this version writes them. queue/entry.py and queue/kafka_record.py have the
definitions, and read all other forms."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from zpush._fast.frames cimport utf8_step

cdef enum:
    MAX_ID_BYTES = 255           # as in protocol/message.py
    MAX_EXPIRES_DIGITS = 15      # likewise
    # protocol.message.Kind
    TEXT = 1
    BINARY = 2
    JSON = 3


def read(fields):
    cdef list given
    if type(fields) is not list:
        return None
    given = fields
    if len(given) != 8 and len(given) != 10:
        return None
    for each in given:
        if type(each) is not bytes:
            return None
    if given[0] != b"id" or given[2] != b"key" or given[4] != b"payload" or given[6] != b"type":
        return None
    if len(given) == 10 and given[8] != b"expires":
        return None
    return judged(given[1], given[3], given[5], given[7], given[9] if len(given) == 10 else None)


cdef tuple read_headers(list headers, object key, bytes payload):
    cdef Py_ssize_t count = len(headers)
    if count != 2 and count != 3 or type(key) is not bytes:
        return None
    id_value, type_value = value_of(headers[0], "id"), value_of(headers[1], "type")
    expires_value = value_of(headers[2], "expires") if count == 3 else None
    if id_value is None or type_value is None or (count == 3 and expires_value is None):
        return None
    return judged(id_value, key, payload, type_value, expires_value)


cdef inline tuple judged(bytes id_value, bytes key, bytes payload, bytes type_value, bytes expires_value):
    """What both of the above answer. expires_value: None where there is none."""
    cdef int64_t expires_ms = 0
    cdef int kind = kind_of(type_value)
    message_id, client_id = ascii_id(id_value), ascii_id(key)
    if message_id is None or client_id is None or not kind:
        return None
    if kind != BINARY and utf8_step(0, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)):
        return None
    if expires_value is not None:
        expires_ms = digits(expires_value)
        if expires_ms < 0:
            return None
    return message_id, client_id, payload, kind, expires_ms


cdef inline int kind_of(bytes label) noexcept:
    """0 where it is none."""
    cdef const char *text = PyBytes_AS_STRING(label)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(label)
    if size == 4 and memcmp(text, b"text", 4) == 0:
        return TEXT
    if size == 4 and memcmp(text, b"json", 4) == 0:
        return JSON
    return BINARY if size == 6 and memcmp(text, b"binary", 6) == 0 else 0


cdef inline bytes value_of(header, str name):
    """None where the header has another name, or no value."""
    cdef tuple pair
    if type(header) is not tuple:
        return None
    pair = header
    if len(pair) != 2 or type(pair[0]) is not str or <str>pair[0] != name or type(pair[1]) is not bytes:
        return None
    return pair[1]


def position(bytes text not None):
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(text)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(text)
    cdef uint64_t ms = 0, sequence = 0
    while c"0" <= at[0] <= c"9":
        ms = ms * 10 + (at[0] - c"0")
        at += 1
    if at[0] == c"-":
        at += 1
        while c"0" <= at[0] <= c"9":
            sequence = sequence * 10 + (at[0] - c"0")
            at += 1
    if at != end:
        raise ValueError(f"not a stream's id: {text!r}")
    return ms, sequence


cdef inline str ascii_id(bytes text):
    """None where it has another length, or a byte that is no printable ASCII."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(text)
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(text)
    cdef uint8_t bad = 0
    if not 0 < size <= MAX_ID_BYTES:
        return None
    for i in range(size):  # to the end in any case: so compilers take many bytes at a time
        bad |= <uint8_t>(data[i] - c" ") > c"~" - c" "
    if bad:
        return None
    return PyUnicode_DecodeASCII(<const char *>data, size, NULL)


cdef inline int64_t digits(bytes text):
    """-1 where it is no number of at most 15 digits."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(text)
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(text)
    cdef int64_t number = 0
    if not 0 < size <= MAX_EXPIRES_DIGITS:
        return -1
    for i in range(size):
        if not c"0" <= data[i] <= c"9":
            return -1
        number = number * 10 + (data[i] - c"0")
    return number
