"""The usual push made a message in one step; delivery/push.py has the definition, and makes all others.

Rules. An id is made as protocol/message.py makes it. The system is asked for randomness for 256 ids at a time, and what
is left of it is forgotten after a fork, or both processes would make the same ids.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_CheckExact, PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint8_t, uint64_t

from zpush._fast.sys cimport now_ms

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(str text)
    const uint8_t *PyUnicode_1BYTE_DATA(str text)

cdef enum:
    MAX_ID_BYTES = 255           # as in protocol/message.py
    TIME_BYTES = 6
    TAIL_BYTES = 6
    IDS_AT_ONCE = 256

cdef const char *HEX = "0123456789abcdef"
cdef bytes tails = b""
cdef Py_ssize_t tails_left = 0


def _forget():
    global tails_left
    tails_left = 0


os.register_at_fork(after_in_child=_forget)


@cython.final
cdef class Usual:
    cdef object message, encode, check_message_id, unset, client, text, binary, json, normal
    cdef type priority
    cdef dict priorities
    cdef double min_ttl_s, max_ttl_s

    def __init__(self, message, encode, check_message_id, unset, client, kinds, priorities, normal, min_ttl_s, max_ttl_s):
        self.message, self.encode, self.check_message_id, self.unset = message, encode, check_message_id, unset
        self.client = client
        self.text, self.binary, self.json = kinds
        self.priorities, self.normal = priorities, normal
        self.priority = type(normal)
        self.min_ttl_s, self.max_ttl_s = min_ttl_s, max_ttl_s

    def __call__(self, push):
        if push.clients is not None or push.user is not None or push.all is not False:
            return None
        if push.direct is not False or push.wait_ack is not None or push.secure_token is not None:
            return None
        return self.made(push.client, push.text, push.binary, push.data, push.priority, push.ttl, push.id)

    def of(self, dict fields not None):
        cdef Py_ssize_t known = 0
        client = self.field(fields, "client", None, &known)
        text = self.field(fields, "text", None, &known)
        binary = self.field(fields, "binary", None, &known)
        data = self.field(fields, "data", self.unset, &known)
        priority = self.field(fields, "priority", self.normal, &known)
        ttl_s = self.field(fields, "ttl", None, &known)
        message_id = self.field(fields, "id", None, &known)
        return self.made(client, text, binary, data, priority, ttl_s, message_id) if known == len(fields) else None

    cdef inline object field(self, dict fields, str name, default, Py_ssize_t *known):
        cdef PyObject *found = PyDict_GetItem(fields, name)
        if found == NULL:
            return default
        known[0] += 1
        return <object>found

    cdef made(self, client, text, binary, data, priority, ttl_s, message_id):
        cdef int64_t queued_ms = now_ms(), expires_ms = 0
        if not is_plain_id(client):
            return None
        if type(priority) is not self.priority:
            priority = self.priorities.get(priority) if PyUnicode_CheckExact(priority) else None
            if priority is None:
                return None
        if ttl_s is not None:
            if type(ttl_s) is not float and type(ttl_s) is not int or not self.min_ttl_s <= ttl_s <= self.max_ttl_s:
                return None
            expires_ms = queued_ms + <int64_t>(<double>ttl_s * 1000)
        kind, payload = self.payload(text, binary, data)
        if payload is None:
            return None
        message_id = new_id(queued_ms) if message_id is None else self.check_message_id(message_id)
        return self.message(message_id, client, payload, kind, self.client, priority, expires_ms, queued_ms)

    cdef inline tuple payload(self, text, binary, data):
        """Its kind and bytes; (None, None) where there is not exactly one, or one of an unusual type."""
        if (text is not None) + (binary is not None) + (data is not self.unset) != 1:
            return None, None
        try:
            if text is not None:
                return (self.text, PyUnicode_AsUTF8String(text)) if PyUnicode_CheckExact(text) else (None, None)
            if binary is not None:
                return (self.binary, binary) if PyBytes_CheckExact(binary) else (None, None)
            payload = self.encode(data)
            if b"null" in payload or isinstance(data, (bytes, bytearray, memoryview)):
                return None, None  # it may have been NaN, or base64 made of it
            return self.json, payload
        except (TypeError, ValueError, OverflowError):  # the definition says what is wrong with it
            return None, None


cdef inline bint is_plain_id(text):
    """1–255 characters of printable ASCII."""
    cdef const uint8_t *data
    cdef Py_ssize_t i, size
    if not PyUnicode_CheckExact(text) or not PyUnicode_IS_COMPACT_ASCII(<str>text):
        return False
    data, size = PyUnicode_1BYTE_DATA(<str>text), len(<str>text)
    if not 0 < size <= MAX_ID_BYTES:
        return False
    for i in range(size):
        if not c" " <= data[i] <= c"~":
            return False
    return True


cdef str new_id(int64_t ms):
    global tails, tails_left
    cdef uint8_t raw[TIME_BYTES + TAIL_BYTES]
    cdef char text[2 * (TIME_BYTES + TAIL_BYTES)]
    cdef const uint8_t *tail
    cdef int i
    if not tails_left:
        tails = os.urandom(IDS_AT_ONCE * TAIL_BYTES)
        tails_left = IDS_AT_ONCE
    tails_left -= 1
    tail = <const uint8_t *>PyBytes_AS_STRING(tails) + tails_left * TAIL_BYTES
    for i in range(TIME_BYTES):
        raw[i] = <uint8_t>(<uint64_t>ms >> 8 * (TIME_BYTES - 1 - i))
    for i in range(TAIL_BYTES):
        raw[TIME_BYTES + i] = tail[i]
    for i in range(TIME_BYTES + TAIL_BYTES):
        text[2 * i] = HEX[raw[i] >> 4]
        text[2 * i + 1] = HEX[raw[i] & 15]
    return PyUnicode_DecodeASCII(text, sizeof(text), NULL)
